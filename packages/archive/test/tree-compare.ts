import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { AT_FDCWD, EMPTY, fileCalls, nameAt, OPEN_DIRECTORY, STAT, STAT_FIELDS } from '@aegis/native/files';

/** Two trees, compared by everything that a file system knows of them: names as bytes, kinds, content by its SHA-256, sizes, times to the nanosecond,
 *  modes, owners, extended attributes and ACLs, devices, link counts and which names are one, and where the holes are. */

export interface SnapshotOptions {
  /** Names of kinds that are left out. */
  without?: readonly string[];
  /** Fields that are left out, as `mtime`. */
  ignore?: readonly string[];
}

const KINDS: ReadonlyMap<number, string> = new Map([
  [0o010000, 'fifo'],
  [0o020000, 'character'],
  [0o040000, 'directory'],
  [0o060000, 'block'],
  [0o100000, 'file'],
  [0o120000, 'symlink'],
  [0o140000, 'socket'],
]);

/** Path (latin1, `.` for the root) → what is there, as one line. */
export const snapshot = (root: string, { without = [], ignore = [] }: SnapshotOptions = {}): Map<string, string> => {
  const files = fileCalls();
  const found = new Map<string, string>();
  const inodes = new Map<string, string>();
  const buffer = Buffer.alloc(1024 * 1024);

  const content = (fd: number, size: number): { sha256: string; data: number[] } => {
    const hash = createHash('sha256');
    const data = [...files.dataSegments(fd, size)];
    for (let at = 0; at < data.length; at += 2) {
      let from = data[at] ?? 0;
      const end = data[at + 1] ?? 0;
      hash.update(`${from}-${end}:`);
      for (let got = 1; from < end && got > 0; from += got) {
        got = files.readInto(fd, buffer, 0, Math.min(buffer.length, end - from), from);
        hash.update(buffer.subarray(0, got));
      }
    }
    return { sha256: hash.digest('hex'), data };
  };

  const describe = (parent: number, name: Buffer, path: string, out: Float64Array, at: number): string => {
    const field = (one: keyof typeof STAT): number => out[at + STAT[one]] ?? Number.NaN;
    const kind = KINDS.get(field('mode') & 0o170000) ?? 'unknown';
    const inode = `${field('devMajor')}:${field('devMinor')}:${field('inodeHigh')}:${field('inodeLow')}`;
    const first = kind === 'directory' ? path : (inodes.get(inode) ?? path);
    inodes.set(inode, first);
    const facts: Record<string, unknown> = {
      kind,
      mode: (field('mode') & 0o7777).toString(8),
      uid: field('uid'),
      gid: field('gid'),
      mtime: `${field('mtimeSec')}.${String(field('mtimeNsec')).padStart(9, '0')}`,
      links: field('links'),
      same: first,
      device: kind === 'character' || kind === 'block' ? [field('rdevMajor'), field('rdevMinor')] : undefined,
      size: kind === 'file' ? field('size') : undefined,
      target: kind === 'symlink' ? files.readLinkAt(parent, name).toString('latin1') : undefined,
      xattrs: files
        .getXattrsAt(parent, name)
        .map((xattr) => `${xattr.name.toString('latin1')}=${xattr.value.toString('base64')}`)
        .sort(),
    };
    if (kind === 'file') {
      const fd = files.openAt(parent, name, constants.O_RDONLY | constants.O_NOFOLLOW);
      Object.assign(facts, content(fd, field('size')));
      files.closeFd(fd);
    }
    for (const one of ignore) delete facts[one];
    return JSON.stringify(facts);
  };

  const walk = (fd: number, above: string): void => {
    const listing = files.readDirectory(fd);
    const out = new Float64Array(STAT_FIELDS * listing.ends.length);
    files.statListing(fd, listing, out);
    for (let index = 0; index < listing.ends.length; index++) {
      const name = nameAt(listing, index);
      const at = index * STAT_FIELDS;
      const kind = KINDS.get((out[at + STAT.mode] ?? 0) & 0o170000) ?? 'unknown';
      if (without.includes(kind)) continue;
      const path = `${above}${name.toString('latin1')}`;
      found.set(path, describe(fd, name, path, out, at));
      if (kind !== 'directory') continue;
      const inside = files.openAt(fd, name, OPEN_DIRECTORY);
      walk(inside, `${path}/`);
      files.closeFd(inside);
    }
  };

  const fd = files.openAt(AT_FDCWD, Buffer.from(root), OPEN_DIRECTORY);
  const own = new Float64Array(STAT_FIELDS);
  files.statAt(fd, EMPTY, own);
  found.set('.', describe(fd, Buffer.from('.'), '.', own, 0));
  walk(fd, '');
  files.closeFd(fd);
  return found;
};

/** Empty when both are the same; else a line for each path that is not. */
export const differences = (wanted: ReadonlyMap<string, string>, got: ReadonlyMap<string, string>): string[] => {
  const lines: string[] = [];
  for (const [path, facts] of wanted) {
    const other = got.get(path);
    if (other !== facts)
      lines.push(
        `${JSON.stringify(path.slice(-120))}\n  wanted ${facts.slice(0, 1500)}\n  got    ${(other ?? 'nothing').slice(0, 1500)}`,
      );
  }
  for (const path of got.keys())
    if (!wanted.has(path)) lines.push(`${JSON.stringify(path.slice(-120))}\n  was not wanted`);
  return lines;
};
