import { closeSync, type Dirent, lstatSync, openSync, readdirSync, readSync } from 'node:fs';
import type { DirectoryView, EntryKind, Selection } from '../src/backup/select/selection.ts';

/** What a selection takes of a tree, walked with the plainest of means: the reference that the scanner itself is no part of. */

const bytesOf = (text: string): Buffer => Buffer.from(text, 'latin1');

/** Files, and directories with a slash at the end, of `source` and below it, a char a byte; as restic lists them, only those. */
export const selectedOf = (selection: Selection, source: string): string[] => {
  const device = lstatSync(bytesOf(source)).dev;
  const found: string[] = [`${source}/`];
  const walk = (path: string, own: number): void => {
    const entries = readdirSync(bytesOf(path), { encoding: 'buffer', withFileTypes: true });
    const view = viewOf(path, own, device, entries);
    const members = selection.members(view);
    if (members === 'none') return;
    for (const { name } of entries) {
      if (members !== 'all' && !members.only.some((one) => one.equals(name))) continue;
      const child = `${path}/${name.toString('latin1')}`;
      const bytes = bytesOf(child);
      if (!selection.includesPath(bytes)) continue;
      const stat = lstatSync(bytes);
      const kind: EntryKind = stat.isDirectory()
        ? 'directory'
        : stat.isSymbolicLink()
          ? 'symlink'
          : stat.isFIFO()
            ? 'fifo'
            : 'file';
      if (!selection.includes({ path: bytes, kind, size: stat.size, device: stat.dev }, view)) continue;
      if (kind === 'file') found.push(child);
      if (kind !== 'directory') continue;
      found.push(`${child}/`);
      walk(child, stat.dev);
    }
  };
  walk(source, device);
  return found.sort();
};

const viewOf = (
  path: string,
  device: number,
  sourceDevice: number,
  entries: readonly Dirent<Buffer>[],
): DirectoryView => ({
  path: bytesOf(path),
  device,
  sourceDevice,
  has: (name) => entries.some((entry) => entry.name.equals(name)),
  read: (name, limit) => {
    const file = bytesOf(`${path}/${name.toString('latin1')}`);
    if (!lstatSync(file).isFile()) return null;
    const descriptor = openSync(file, 'r');
    const buffer = Buffer.alloc(limit);
    const length = readSync(descriptor, buffer, 0, limit, 0);
    closeSync(descriptor);
    return buffer.subarray(0, length);
  },
});
