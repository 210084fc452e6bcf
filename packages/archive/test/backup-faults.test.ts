import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileCalls } from '@aegis/native/files';
import { AegisError } from '@aegis/protocol/errors';
import { expect, onTestFinished, test } from 'vitest';
import type { Progress } from '../src/backup/run-progress.ts';
import { Scan } from '../src/backup/scan.ts';
import { everything } from '../src/backup/select/selection.ts';
import { failing, filesWith, withBadBytes } from './backup-files.ts';
import { codesOf, pathsOf, randomLike, temporaryFolder, writeBackup } from './backup-writer.ts';
import { type TarMember, tarContents } from './tar-contents.ts';

/** Sources that do not keep still, cannot be read, or go away: the run goes on, and says so. */

const EIO = 5;
const EACCES = 13;
const ESTALE = 116;
const EMFILE = 24;
const MIB = 1024 * 1024;
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** Null for what was closed while the folder was listed. */
const readlinkOrNull = (path: string): string | null => {
  try {
    return readlinkSync(path);
  } catch {
    return null;
  }
};

const contentOf = (members: readonly TarMember[], path: string): string | null | undefined =>
  members.find((member) => member.path.endsWith(path))?.sha256;

test('files that change, shrink, grow and vanish while they are read', async () => {
  const folder = temporaryFolder();
  const large = randomLike('large', 6 * MIB);
  for (const name of ['a-grown', 'b-shrunk', 'c-changed', 'd-touched', 'e-same', 'f-unlinked', 'g-rewritten'])
    writeFileSync(join(folder, name), large);
  for (const name of ['h-vanished', 'i-vanished-directory']) mkdirSync(join(folder, name));
  writeFileSync(join(folder, 'j-vanished'), 'x');
  const path = (name: string): string => join(folder, name);
  const files = filesWith(
    { name: 'a-grown', at: 2, happens: () => appendFileSync(path('a-grown'), 'more') },
    { name: 'b-shrunk', at: 2, happens: () => truncateSync(path('b-shrunk'), 5 * MIB + 5) },
    { name: 'c-changed', at: 2, happens: () => writeFileSync(path('c-changed'), Buffer.alloc(6 * MIB, 'n')) },
    { name: 'd-touched', at: 2, happens: () => utimesSync(path('d-touched'), 5, 5) },
    { name: 'f-unlinked', at: 1, happens: () => unlinkSync(path('f-unlinked')) },
    // Before it is opened: that is just another file by then.
    { name: 'g-rewritten', at: 'opening', happens: () => writeFileSync(path('g-rewritten'), 'short') },
    { name: 'h-vanished', at: 'opening', happens: () => rmSync(path('h-vanished'), { recursive: true, force: true }) },
    {
      name: 'i-vanished-directory',
      at: 'opened',
      happens: () => rmSync(path('i-vanished-directory'), { recursive: true, force: true }),
    },
    { name: 'j-vanished', at: 'opening', happens: () => rmSync(path('j-vanished'), { force: true }) },
  );
  const { archive, entries, errors, result } = await writeBackup([folder], { files });
  const below = `${folder.slice(1)}/`;
  expect(codesOf(below, errors)).toEqual([
    'a-grown: grown',
    'b-shrunk: shrunk',
    'c-changed: changed',
    'd-touched: changed',
    'f-unlinked: changed',
    'h-vanished: ENOENT',
    'i-vanished-directory: ENOENT',
    'j-vanished: ENOENT',
  ]);
  const statuses = entries.flatMap(({ path: stored, status }) =>
    status ? [[pathsOf([{ path: stored }]).join(), status]] : [],
  );
  expect(statuses).toEqual([
    [`${below}a-grown`, 'grown'],
    [`${below}b-shrunk`, 'shrunk'],
    [`${below}c-changed`, 'changed'],
    [`${below}d-touched`, 'changed'],
    [`${below}f-unlinked`, 'changed'],
  ]);
  const members = tarContents(archive);
  // What is stored is what its sum says, of the size that its header says, and the tar is whole.
  const shrunk = Buffer.concat([large.subarray(0, 5 * MIB + 5), Buffer.alloc(6 * MIB - 5 * MIB - 5)]);
  expect(contentOf(members, 'a-grown')).toBe(sha256(large));
  expect(contentOf(members, 'b-shrunk')).toBe(sha256(shrunk));
  expect(contentOf(members, 'e-same')).toBe(sha256(large));
  expect(contentOf(members, 'g-rewritten')).toBe(sha256(Buffer.from('short')));
  const stored = entries
    .filter(({ kind }) => kind === 'file')
    .map(({ path: one, sha256: sum, size }) => [pathsOf([{ path: one }])[0], sum, size]);
  expect(members.filter(({ kind }) => kind === 'file').map((one) => [one.path, one.sha256, one.size])).toEqual(stored);
  expect(result.errors.map(({ code }) => code)).toEqual(errors.map(({ code }) => code));
  expect(result.errors[1]).toEqual({
    path: `${below}b-shrunk`,
    code: 'shrunk',
    message: `shrank while it was read: zeros from byte ${5 * MIB + 5} on`,
  });
  expect(result.totals.errors).toBe(8);
});

test('files and directories that may not be read, bad sectors, and a disk that gives up', async () => {
  const folder = temporaryFolder();
  const content = randomLike('bad', 200_000);
  for (const name of ['a-secret', 'b-sectors', 'c-small', 'd-dead', 'e-good'])
    writeFileSync(join(folder, name), content);
  mkdirSync(join(folder, 'f-closed'));
  writeFileSync(join(folder, 'f-closed/inside'), 'x');
  writeFileSync(join(folder, 'g-big'), randomLike('big', 9 * MIB));
  let files = filesWith(
    { name: 'a-secret', at: 'opening', happens: failing(EACCES, 'openat') },
    { name: 'c-small', at: 1, happens: failing(EIO, 'pread') },
    { name: 'd-dead', at: 1, happens: failing(ESTALE, 'pread') },
    { name: 'f-closed', at: 'opening', happens: failing(EACCES, 'openat') },
  );
  files = withBadBytes(files, 'b-sectors', 10_000, 20_000);
  files = withBadBytes(files, 'g-big', 5 * MIB, 9 * MIB);
  const { archive, entries, errors } = await writeBackup([folder], { files });
  const below = `${folder.slice(1)}/`;
  expect(codesOf(below, errors)).toEqual([
    'a-secret: EACCES',
    'b-sectors: unreadable-part',
    'c-small: unreadable-part',
    'd-dead: unreadable-part',
    'f-closed: EACCES',
    'g-big: unreadable-part',
  ]);
  expect(errors.map(({ message }) => message)).toEqual([
    'may not be read by the user who makes the backup (openat)',
    'could not be read in 10480 bytes (EIO): zeros stand there',
    'could not be read in 4096 bytes (EIO): zeros stand there',
    'could not be read from byte 0 on (ESTALE): zeros stand there',
    'may not be read by the user who makes the backup (openat)',
    `could not be read from byte ${5 * MIB} on (EIO): zeros stand there`,
  ]);
  // The closed directory itself is stored: only what is in it is missing.
  expect(pathsOf(entries).map((path) => path.slice(below.length))).toEqual(
    ['', 'b-sectors', 'c-small', 'd-dead', 'e-good', 'f-closed', 'g-big'].map((name) => name),
  );
  const members = tarContents(archive);
  const zeroed = (from: number, to: number): string => sha256(Buffer.from(content).fill(0, from, to));
  expect(contentOf(members, 'b-sectors')).toBe(zeroed(10_000, 20_480));
  expect(contentOf(members, 'c-small')).toBe(zeroed(0, 4096));
  expect(contentOf(members, 'd-dead')).toBe(zeroed(0, content.length));
  expect(contentOf(members, 'g-big')).toBe(sha256(randomLike('big', 9 * MIB).fill(0, 5 * MIB)));
});

test('what hits this process and not the file ends the run', async () => {
  const folder = temporaryFolder();
  writeFileSync(join(folder, 'file'), 'x');
  const files = filesWith({ name: 'file', at: 'opening', happens: failing(EMFILE, 'openat') });
  await expect(writeBackup([folder], { files })).rejects.toMatchObject({ code: 'EMFILE' });
});

test('a file system that is unmounted in the middle is told of', async () => {
  const folder = temporaryFolder();
  const mounts = ['source', 'tree/inner'].map((name) => join(folder, name));
  for (const mount of mounts) {
    mkdirSync(mount, { recursive: true });
    execFileSync('mount', ['-t', 'tmpfs', 'none', mount]);
    writeFileSync(join(mount, 'file'), 'on it');
  }
  const mounted = new Set(mounts);
  const unmount = (mount: string): void => {
    if (mounted.delete(mount)) execFileSync('umount', ['-l', mount]);
  };
  onTestFinished(() => mounts.forEach(unmount));
  const [source = '', inner = ''] = mounts;
  const files = filesWith(
    { name: 'file', at: 'opened', happens: () => unmount(source) },
    { name: 'inner', at: 'opened', happens: () => unmount(inner) },
  );
  const { errors, entries } = await writeBackup([source, join(folder, 'tree')], { files });
  expect(codesOf(folder.slice(1), errors)).toEqual(['/source: source_changed', '/tree/inner: source_changed']);
  expect(pathsOf(entries).map((path) => path.slice(folder.length - 1))).toEqual([
    '/source',
    '/source/file',
    '/tree',
    '/tree/inner',
    '/tree/inner/file',
  ]);
});

test('sources that are not there are errors; when none is, the run fails', async () => {
  const folder = temporaryFolder();
  writeFileSync(join(folder, 'file'), 'x');
  symlinkSync('nowhere', join(folder, 'dangling'));
  const gone = join(folder, 'gone');
  const { errors, entries } = await writeBackup([
    gone,
    'relative',
    '/a/../b',
    join(folder, 'file'),
    `${folder}/file/x`,
  ]);
  expect(errors.map(({ path, code }) => [path.toString(), code])).toEqual([
    ['relative', 'bad_source'],
    ['/a/../b', 'bad_source'],
    [`${folder.slice(1)}/file/x`, 'ENOTDIR'],
    [gone.slice(1), 'ENOENT'],
  ]);
  expect(pathsOf(entries)).toEqual([`${folder.slice(1)}/file`]);
  await expect(writeBackup([gone])).rejects.toMatchObject({
    code: 'backups.no_source',
    message: `None of the sources can be read: ${gone} was gone before it was read (statx).`,
  });
  await expect(writeBackup([])).rejects.toMatchObject({ code: 'backups.no_source' });
  // A link is something, wherever it leads.
  expect(pathsOf((await writeBackup([join(folder, 'dangling')])).entries)).toEqual([`${folder.slice(1)}/dangling`]);
});

test('directories that move while they are walked', () => {
  const folder = temporaryFolder();
  const steps = Array.from({ length: 8 }, (_, depth) => `d${depth}`);
  mkdirSync(join(folder, 'root', ...steps), { recursive: true });
  for (let depth = 0; depth <= steps.length; depth++)
    writeFileSync(join(folder, 'root', ...steps.slice(0, depth), 'z'), String(depth));
  const walk = (onPath: (path: string) => void): string[] => {
    const seen: string[] = [];
    using scan = new Scan({
      files: fileCalls(),
      sources: [Buffer.from(join(folder, 'root'))],
      select: everything,
      openFiles: true,
      keepOpen: 2,
    });
    for (let next = scan.next(); next; next = scan.next()) {
      const path = next.path.toString().slice(folder.length);
      seen.push(next.type === 'problem' ? `${path}: ${next.code}: ${next.message}` : path);
      onPath(path);
    }
    return seen;
  };
  // Two descriptors are enough for any depth.
  const inner = (depth: number): string => ['root', ...steps.slice(0, depth)].join('/');
  const down = Array.from({ length: 9 }, (_, depth) => inner(depth));
  const up = [...down].reverse().map((path) => `${path}/z`);
  expect(walk(() => undefined)).toEqual([...down, ...up]);
  // d5 is carried elsewhere while the scan is below it: what it was carried from is found from the outermost directory.
  const carry = (path: string): void => {
    if (path === inner(8)) renameSync(join(folder, inner(6)), join(folder, 'elsewhere'));
  };
  expect(walk(carry)).toEqual([...down, ...up]);
  renameSync(join(folder, 'elsewhere'), join(folder, inner(6)));
  // And when that is no longer where it was either, the loss is told.
  const scatter = (path: string): void => {
    if (path !== inner(8)) return;
    renameSync(join(folder, inner(6)), join(folder, 'deep'));
    renameSync(join(folder, inner(3)), join(folder, 'middle'));
  };
  expect(walk(scatter)).toEqual([
    ...down,
    ...up.slice(0, 3),
    ...[5, 4, 3].map(
      (depth) => `${inner(depth)}: moved: was moved away while it was read: 1 of its names were not looked at`,
    ),
    ...up.slice(6),
  ]);
});

test('a limit of size, a signal and a sink that fails end the run, and what was open is closed', async () => {
  const folder = temporaryFolder();
  for (let at = 0; at < 6; at++) writeFileSync(join(folder, `file-${at}`), randomLike(String(at), 3 * MIB));
  const openFiles = (): string[] =>
    readdirSync('/proc/self/fd').flatMap((fd) => {
      const path = readlinkOrNull(`/proc/self/fd/${fd}`);
      return path?.startsWith(folder) ? [path] : [];
    });
  let written = 0;
  const counting = {
    write: (bytes: Buffer) => {
      written += bytes.length;
    },
  };
  await expect(writeBackup([folder], { maxArchiveBytes: 9 * MIB, archive: counting })).rejects.toMatchObject({
    code: 'backups.limit',
    details: { archive_bytes: 9 * MIB },
  });
  expect(written).toBeLessThanOrEqual(9 * MIB);

  const aborted = new AbortController();
  const reason = new Error('told to');
  const files = filesWith({ name: 'file-3', at: 'opened', happens: () => aborted.abort(reason) });
  await expect(writeBackup([folder], { files, signal: aborted.signal })).rejects.toBe(reason);
  await expect(writeBackup([folder], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);

  const full = new AegisError('backups.destination_full', 'The disk is full.');
  const failingSink = { write: () => Promise.reject(full) };
  await expect(writeBackup([folder], { archive: failingSink })).rejects.toBe(full);
  await expect(writeBackup([folder], { manifest: failingSink })).rejects.toBe(full);
  expect(openFiles()).toEqual([]);
});

test('progress', async () => {
  const folder = temporaryFolder();
  for (let at = 0; at < 5; at++) writeFileSync(join(folder, `file-${at}`), randomLike(String(at), 1000));
  const told: Progress[] = [];
  let now = 0;
  const { result } = await writeBackup([folder], {
    onProgress: (progress) => told.push(progress),
    progressMs: 1,
    clock: { now: () => now++ },
    estimate: 'count',
  });
  expect([...new Set(told.map(({ phase }) => phase))]).toEqual(['scanning', 'archiving']);
  const last = told.at(-1);
  expect(last).toEqual({
    phase: 'archiving',
    files: 5,
    directories: 1,
    bytes: 5000,
    archiveBytes: 0,
    errors: 0,
    path: `${folder.slice(1)}/file-4`,
    filesTotal: 5,
    bytesTotal: 5000,
  });
  expect(result.totals).toMatchObject({ files: 5, directories: 1, bytes: 5000 });
  expect(readFileSync(join(folder, 'file-0')).length).toBe(1000);
});
