import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { Entry } from '../src/backup/manifest/lines.ts';
import { everything } from '../src/backup/select/selection.ts';
import { pathsOf, temporaryFolder, writeBackup } from './backup-writer.ts';
import { type TarMember, tarContents, tarOf } from './tar-contents.ts';

/** What stands in archive and manifest, read by an implementation of tar that is not ours, and by the bytes themselves. */

const sha256 = (bytes: Buffer | string): string => createHash('sha256').update(bytes).digest('hex');

/** One of each kind, and names that need more than a ustar header. */
const makeTree = (folder: string): string => {
  const root = join(folder, 'root');
  mkdirSync(root);
  mkdirSync(join(root, 'b'), { mode: 0o750 });
  writeFileSync(join(root, 'b/small'), 'small');
  writeFileSync(join(root, 'b/large'), Buffer.alloc(5_000_000, 'large '));
  linkSync(join(root, 'b/small'), join(root, 'c-hard'));
  symlinkSync('b/small', join(root, 'd-soft'));
  symlinkSync('x'.repeat(150), join(root, 'e-far'));
  execFileSync('mkfifo', [join(root, 'f-fifo')]);
  execFileSync('mknod', [join(root, 'g-device'), 'c', '300', '70000']);
  writeFileSync(join(root, 'h-empty'), '');
  writeFileSync(join(root, `i-${'n'.repeat(240)}`), 'long name');
  writeFileSync(Buffer.concat([Buffer.from(`${root}/j-`), Buffer.from([0xff, 0x0a, 0xc3])]), 'bytes');
  writeFileSync(join(root, 'k-owned'), 'owned');
  chownSync(join(root, 'k-owned'), 4_000_000_000, 3_000_000);
  chmodSync(join(root, 'k-owned'), 0o4751);
  writeFileSync(join(root, 'l-sparse'), 'x');
  truncateSync(join(root, 'l-sparse'), 40_000_000);
  writeFileSync(join(root, 'm-old'), '');
  utimesSync(join(root, 'm-old'), -1.5, -1.5);
  writeFileSync(join(root, 'n-whole'), '');
  utimesSync(join(root, 'n-whole'), 1_000_000_000, 1_000_000_000);
  lutimesSync(join(root, 'd-soft'), 5, 5);
  return root;
};

/** As Python would have to see it. */
const memberOf = (entry: Entry): TarMember => {
  const [sec = '', nanos = ''] = entry.mtime.split('.');
  const negative = sec.startsWith('-') && nanos !== '000000000';
  const time = negative
    ? `-${-(Number(sec) + 1)}.${String(1e9 - Number(nanos)).padStart(9, '0')}`
    : nanos === '000000000'
      ? sec
      : `${sec}.${nanos}`;
  return {
    path: entry.path.toString('latin1'),
    kind: entry.kind,
    mode: entry.mode,
    uid: entry.uid,
    gid: entry.gid,
    user: entry.user,
    group: entry.group,
    size: entry.size,
    mtime: time,
    target: entry.target?.toString('latin1') ?? '',
    device: entry.kind === 'character' ? [300, 70_000] : [0, 0],
    sha256: entry.kind === 'file' ? (entry.sha256 ?? null) : null,
  };
};

test('another tar program sees what the manifest says', async () => {
  const root = makeTree(temporaryFolder());
  const { result, archive, entries, errors } = await writeBackup([root]);
  expect(errors).toEqual([]);
  const members = tarContents(archive);
  const sparse = entries.find(({ sparse }) => sparse);
  const wanted = entries.map(memberOf).map((member) =>
    // The manifest's sum is of map and data; a reader that fills the hole gets another one.
    member.path.endsWith('l-sparse') ? { ...member, sha256: sha256(Buffer.alloc(40_000_000).fill('x', 0, 1)) } : member,
  );
  expect(members).toEqual(wanted);
  expect(sparse?.path.toString()).toBe(`${root.slice(1)}/l-sparse`);
  expect(result.totals).toEqual({
    files: 10,
    directories: 2,
    others: 4,
    bytes: members.reduce((sum, { kind, size }) => sum + (kind === 'file' && size < 40_000_000 ? size : 0), 0) + 4096,
    tarBytes: tarOf(archive).length,
    errors: 0,
  });
});

test('offsets, lengths and sums of the manifest are those of the tar; frames those of the archive', async () => {
  const root = makeTree(temporaryFolder());
  const { archive, entries, lines, result } = await writeBackup([root]);
  const tar = tarOf(archive);
  let at = 0;
  for (const entry of entries) {
    expect(entry.offset).toBe(at);
    const whole = tar.subarray(entry.offset, entry.offset + entry.length);
    const dataBytes = entry.sparse ? 4096 + 512 : entry.kind === 'file' ? entry.size : 0;
    const headerBytes = entry.length - Math.ceil(dataBytes / 512) * 512;
    expect([pathsOf([entry]), sha256(whole.subarray(0, headerBytes))]).toEqual([pathsOf([entry]), entry.header_sha256]);
    const data = whole.subarray(headerBytes, headerBytes + dataBytes);
    expect([pathsOf([entry]), entry.kind === 'file' ? sha256(data) : undefined]).toEqual([
      pathsOf([entry]),
      entry.sha256,
    ]);
    expect(whole.subarray(headerBytes + dataBytes).every((byte) => byte === 0)).toBe(true);
    at += entry.length;
  }
  expect(tar.length - at).toBe(1024);
  expect(tar.subarray(at).every((byte) => byte === 0)).toBe(true);
  expect(lines.at(-1)).toEqual({
    type: 'end',
    entries: entries.length,
    errors: 0,
    tar_bytes: tar.length,
    archive: { bytes: archive.length, sha256: sha256(archive) },
  });
  expect(result.archive).toEqual({ bytes: archive.length, sha256: sha256(archive) });
  const frames = lines.flatMap((line) => (line.type === 'frames' ? line.frames : []));
  expect(frames.map(([tarBytes]) => tarBytes)).toEqual([4 * 1024 * 1024, tar.length - 4 * 1024 * 1024]);
  let packedAt = 0;
  let tarAt = 0;
  for (const [tarBytes, packedBytes] of frames) {
    const frame = archive.subarray(packedAt, packedAt + packedBytes);
    expect(tarOf(frame).equals(tar.subarray(tarAt, tarAt + tarBytes))).toBe(true);
    packedAt += packedBytes;
    tarAt += tarBytes;
  }
  expect(packedAt).toBe(archive.length);
});

test('the same tree gives the same bytes', async () => {
  const root = makeTree(temporaryFolder());
  const [first, second] = [await writeBackup([root]), await writeBackup([root], { framesAhead: 1 })];
  expect(first.archive.equals(second.archive)).toBe(true);
  expect(first.lines).toEqual(second.lines);
});

test('a socket is in the manifest and not in the tar', async () => {
  const folder = temporaryFolder();
  const server = createServer().listen(join(folder, 'socket'));
  onTestFinished(() => void server.close());
  const { archive, entries, result } = await writeBackup([folder]);
  expect(entries.map(({ kind, length }) => [kind, length > 0])).toEqual([
    ['directory', true],
    ['socket', false],
  ]);
  expect(tarContents(archive).map(({ kind }) => kind)).toEqual(['directory']);
  expect(result.totals).toMatchObject({ directories: 1, others: 1 });
});

test('hard links across sources, of symlinks and of devices refer to the first name', async () => {
  const folder = temporaryFolder();
  for (const name of ['a', 'b']) mkdirSync(join(folder, name));
  writeFileSync(join(folder, 'a/file'), 'x');
  symlinkSync('file', join(folder, 'a/soft'));
  execFileSync('mknod', [join(folder, 'a/device'), 'b', '7', '200']);
  for (const name of ['file', 'soft', 'device'])
    execFileSync('ln', ['-P', join(folder, 'a', name), join(folder, 'b', name)]);
  const { entries } = await writeBackup([join(folder, 'b'), join(folder, 'a')]);
  const below = folder.slice(1);
  expect(
    entries.map(({ path, kind, target }) => `${path.toString().slice(below.length)} ${kind} ${target ?? ''}`),
  ).toEqual([
    '/a directory ',
    '/a/device block ',
    '/a/file file ',
    '/a/soft symlink file',
    '/b directory ',
    `/b/device hardlink ${below}/a/device`,
    `/b/file hardlink ${below}/a/file`,
    `/b/soft hardlink ${below}/a/soft`,
  ]);
});

test('sources: once each, in order, nested ones within, files and links as what they are', async () => {
  const folder = temporaryFolder();
  for (const path of ['tree', 'tree/in', 'tree/in/deep', 'other', 'real']) mkdirSync(join(folder, path));
  for (const path of ['tree/in/deep/x', 'tree/y', 'other/z', 'real/w']) writeFileSync(join(folder, path), path);
  symlinkSync('real', join(folder, 'link'));
  const { entries, errors } = await writeBackup(
    [
      `${folder}//tree/`,
      join(folder, 'tree/in/deep'),
      join(folder, 'tree'),
      join(folder, 'other/z'),
      join(folder, 'link'),
      `${folder}/link/w`,
    ],
    // Nested sources are included whatever the selection says of the way to them.
    { select: { ...everything, includesPath: (path) => !path.toString().endsWith('/in') } },
  );
  expect(errors).toEqual([]);
  const below = folder.slice(1);
  expect(entries.map(({ path, kind }) => [path.toString().slice(below.length + 1), kind])).toEqual([
    ['link', 'symlink'],
    ['link/w', 'file'],
    ['other/z', 'file'],
    ['tree', 'directory'],
    ['tree/y', 'file'],
    ['tree/in/deep', 'directory'],
    ['tree/in/deep/x', 'file'],
  ]);
});

test('entries come component by component, sources too', async () => {
  const folder = temporaryFolder();
  for (const path of ['a', 'a/b', 'a-b']) mkdirSync(join(folder, path));
  for (const path of ['a/b/x', 'a-b/y', 'a.c']) writeFileSync(join(folder, path), '');
  const whole = await writeBackup([folder]);
  const parts = await writeBackup(['a.c', 'a-b', 'a'].map((name) => join(folder, name)));
  const below = pathsOf(whole.entries).slice(1);
  expect(below.map((path) => path.slice(folder.length))).toEqual(['a', 'a/b', 'a/b/x', 'a-b', 'a-b/y', 'a.c']);
  expect(pathsOf(parts.entries)).toEqual(below);
});

test('the root as a source', async () => {
  const { archive, entries } = await writeBackup(['/'], { select: { ...everything, members: () => 'none' } });
  expect(pathsOf(entries)).toEqual(['.']);
  expect(tarContents(archive).map(({ path, kind }) => [path, kind])).toEqual([['.', 'directory']]);
});

test('names of owners come from passwd and group, and from nowhere else', async () => {
  const folder = temporaryFolder();
  writeFileSync(join(folder, 'file'), '');
  chownSync(join(folder, 'file'), 12_345, 54_321);
  const { archive } = await writeBackup([join(folder, 'file')], {
    owners: { user: (uid) => `user-${uid}`, group: (gid) => `größe-${'x'.repeat(40)}-${gid}` },
  });
  expect(tarContents(archive)).toMatchObject([{ user: 'user-12345', group: `größe-${'x'.repeat(40)}-54321` }]);
  expect(readFileSync('/etc/passwd', 'utf8')).not.toContain('user-12345');
});
