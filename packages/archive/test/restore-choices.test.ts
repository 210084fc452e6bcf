import {
  appendFileSync,
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { beforeAll, expect, onTestFinished, test } from 'vitest';
import type { Difference, RestoreProgress } from '../src/backup/restore/backup.ts';
import { diff } from '../src/backup/restore/open.ts';
import { membersToParts, putTogether, takeApart } from './backup-forge.ts';
import { type MadeBackup, makeBackup, memorySource, openMade } from './backup-maker.ts';
import { noise } from './hostile-tree.ts';
import { differences, snapshot } from './tree-compare.ts';

/** What of a backup is restored, read, verified and compared, by the caller's choice. */

let base = '';
let source = '';
let plain: MadeBackup;
let sealed: MadeBackup;
beforeAll(async () => {
  base = mkdtempSync(join(tmpdir(), 'aegis-choices-'));
  source = join(base, 's');
  mkdirSync(join(source, 'etc/app/conf.d'), { recursive: true });
  mkdirSync(join(source, 'data'));
  chmodSync(join(source, 'etc/app'), 0o700);
  writeFileSync(join(source, 'etc/app/conf.d/a.conf'), 'a');
  writeFileSync(join(source, 'etc/app/conf.d/b.conf'), 'b');
  writeFileSync(join(source, 'etc/app/notes'), 'notes');
  for (let at = 0; at < 8; at++) writeFileSync(join(source, `data/large-${at}`), noise(`large ${at}`, 3_000_000));
  linkSync(join(source, 'data/large-0'), join(source, 'etc/app/linked'));
  linkSync(join(source, 'data/large-0'), join(source, 'etc/app/linked-too'));
  writeFileSync(join(source, 'data/sparse'), 'start');
  truncateSync(join(source, 'data/sparse'), 20 * 1024 ** 2);
  symlinkSync('etc', join(source, 'link'));
  plain = await makeBackup([source]);
  sealed = await makeBackup([source], { encrypted: true });
  return () => rmSync(base, { recursive: true });
});

const newTarget = (): string => {
  const target = mkdtempSync(join(base, 'target-'));
  onTestFinished(() => rmSync(target, { recursive: true }));
  return target;
};
const below = (target: string): string => join(target, source.slice(1));
const namesIn = (target: string): string[] =>
  existsSync(below(target)) ? [...snapshot(below(target)).keys()].filter((name) => name !== '.').sort() : [];

test('patterns of paths: what matches, all below it, and the folders above with the modes they had', async () => {
  for (const made of [plain, sealed])
    for (const [paths, names] of [
      [['*.conf'], ['etc', 'etc/app', 'etc/app/conf.d', 'etc/app/conf.d/a.conf', 'etc/app/conf.d/b.conf']],
      [[`${source}/etc/**/notes`], ['etc', 'etc/app', 'etc/app/notes']],
      [
        ['conf.d', '/nowhere'],
        ['etc', 'etc/app', 'etc/app/conf.d', 'etc/app/conf.d/a.conf', 'etc/app/conf.d/b.conf'],
      ],
      [['a.con'], []],
    ] as const) {
      const target = newTarget();
      await using backup = await openMade(made);
      const result = await backup.restore({ target, paths });
      expect(result).toMatchObject({ errors: [], archiveVerified: false });
      expect(namesIn(target)).toEqual(names);
      if (names.length > 0) expect(snapshot(below(target)).get('etc/app')).toContain('"mode":"700"');
    }
});

test('folders above: sticky where they were, and whoever restores gets into them', async () => {
  const from = join(newTarget(), 'from');
  mkdirSync(join(from, 'tmp/read-only'), { recursive: true });
  writeFileSync(join(from, 'tmp/read-only/file'), 'x');
  chmodSync(join(from, 'tmp/read-only'), 0o555);
  chmodSync(join(from, 'tmp'), 0o1777);
  await using backup = await openMade(await makeBackup([from]));
  const target = newTarget();
  expect(await backup.restore({ target, paths: ['file'] })).toMatchObject({ restored: 1, errors: [] });
  const modes = ['tmp', 'tmp/read-only'].map((name) => statSync(join(target, from, name)).mode & 0o7777);
  expect(modes).toEqual([0o1777, 0o755]);
});

test('of a hard link alone its first name brings the content; others are linked to it', async () => {
  const target = newTarget();
  await using backup = await openMade(sealed);
  expect(await backup.restore({ target, paths: ['linked*'] })).toMatchObject({ restored: 2, errors: [] });
  const there = snapshot(below(target));
  expect(readFileSync(join(below(target), 'etc/app/linked')).equals(noise('large 0', 3_000_000))).toBe(true);
  expect(there.get('etc/app/linked-too')).toContain('"links":2,"same":"etc/app/linked"');
});

test('only the frames that are needed are fetched', async () => {
  for (const made of [plain, sealed]) {
    const archive = memorySource(made.archive);
    await using backup = await openMade(made, { archive });
    await backup.restore({ target: newTarget(), paths: ['notes'] });
    const fetched = archive.fetched.reduce((sum, [from, to]) => sum + to - from, 0);
    expect(fetched).toBeLessThan(made.archive.length / 2);
  }
});

test('a dry run fetches nothing, writes nothing and tells what would be done', async () => {
  const archive = memorySource(plain.archive);
  await using backup = await openMade(plain, { archive });
  const target = join(newTarget(), 'new');
  const told: string[] = [];
  const options = { target, dryRun: true, onEntry: (action: string, path: Buffer) => told.push(`${action} ${path}`) };
  const total = snapshot(source).size;
  expect(await backup.restore(options)).toMatchObject({
    restored: total,
    bytes: 0,
    errors: [],
    archiveVerified: false,
  });
  expect(told.length).toBe(total);
  expect(archive.fetched).toEqual([]);
  expect(existsSync(target)).toBe(false);
  await backup.restore({ target });
  unlinkSync(join(below(target), 'etc/app/notes'));
  expect(await backup.restore({ target, dryRun: true })).toMatchObject({ restored: 1, skipped: total - 1 });
  expect(await backup.restore({ target, dryRun: true, overwrite: 'always' })).toMatchObject({ restored: total });
});

test('if-newer replaces what is older than the backup, and nothing else', async () => {
  const target = newTarget();
  await using backup = await openMade(plain);
  await backup.restore({ target });
  const [older, newer] = ['etc/app/conf.d/a.conf', 'etc/app/conf.d/b.conf'].map((name) => join(below(target), name));
  for (const path of [older, newer]) appendFileSync(path ?? '', ' changed');
  utimesSync(older ?? '', 1, 1);
  const result = await backup.restore({ target, overwrite: 'if-newer' });
  expect(result).toMatchObject({ restored: 1, errors: [] });
  expect([older, newer].map((path) => readFileSync(path ?? '', 'utf8'))).toEqual(['a', 'b changed']);
});

test('read gives a content, holes as zeros, of hard links too', async () => {
  const content = async (made: MadeBackup, path: string): Promise<Buffer> => {
    await using backup = await openMade(made);
    const pieces: Buffer[] = [];
    for await (const piece of backup.read(`${source}/${path}`)) pieces.push(Buffer.from(piece));
    return Buffer.concat(pieces);
  };
  for (const made of [plain, sealed])
    for (const path of ['data/large-3', 'data/sparse', 'etc/app/linked', 'etc/app/notes'])
      expect((await content(made, path)).equals(readFileSync(join(source, path))), path).toBe(true);
  await expect(content(plain, 'none')).rejects.toMatchObject({ code: 'backups.unknown_object' });
  await expect(content(plain, 'link')).rejects.toMatchObject({ code: 'backups.unsupported' });
});

test('verification of a sample fetches a part, and finds what is damaged in it', async () => {
  const archive = memorySource(sealed.archive);
  await using backup = await openMade(sealed, { archive });
  let turn = 0;
  const random = (): number => (turn++ === 2 ? 0 : 0.9);
  const sample = await backup.verify({ sample: 0.1, random });
  expect(sample).toMatchObject({ errorCount: 0, archiveVerified: false });
  expect(sample.entries).toBeGreaterThan(0);
  expect(sample.archiveBytes).toBeLessThan(sealed.archive.length);
  expect(await backup.verify()).toMatchObject({
    errorCount: 0,
    archiveVerified: true,
    archiveBytes: sealed.archive.length,
  });

  const damaged = Buffer.from(plain.archive);
  damaged[damaged.length >> 1] = (damaged[damaged.length >> 1] ?? 0) ^ 1;
  await using broken = await openMade({ ...plain, archive: damaged });
  await expect(broken.verify()).rejects.toMatchObject({ code: 'backups.bad_archive' });
  const found = await broken.verify({ sample: 0.99, random: () => 0 });
  expect(found.errorCount).toBeGreaterThan(0);
});

test('differences between two backups, in the order of paths', async () => {
  const other = join(base, 's');
  writeFileSync(join(other, 'etc/app/notes'), 'other');
  utimesSync(join(other, 'etc/app/notes'), 5, 5);
  unlinkSync(join(other, 'data/large-7'));
  writeFileSync(join(other, 'data/new'), 'new');
  onTestFinished(() => {
    writeFileSync(join(other, 'etc/app/notes'), 'notes');
    writeFileSync(join(other, 'data/large-7'), noise('large 7', 3_000_000));
    unlinkSync(join(other, 'data/new'));
  });
  await using before = await openMade(plain);
  await using after = await openMade(await makeBackup([source]));
  const found: Difference[] = [];
  for await (const one of diff(before, after)) found.push(one);
  const at = `${source.slice(1)}/`;
  expect(found.map(({ change, path, fields }) => [change, path.toString().slice(at.length), fields])).toEqual([
    ['modified', 'data', ['mtime']],
    ['removed', 'data/large-7', []],
    ['added', 'data/new', []],
    ['modified', 'etc/app/notes', ['content', 'mtime']],
  ]);
});

test('folders whose entries are scattered get their times all the same, and are compared in order', async () => {
  const folder = (path: string, mtimeSec: number) => ({
    tar: { path: Buffer.from(path), kind: 'directory' as const, mode: 0o755, mtimeSec },
  });
  const file = (path: string) => ({ tar: { path: Buffer.from(path), kind: 'file' as const }, data: Buffer.from(path) });
  const ordered = membersToParts([
    folder('a', 1),
    file('a/1'),
    folder('a/b', 2),
    file('a/b/2'),
    file('a/z'),
    folder('c', 3),
    file('c/4'),
  ]);
  const scattered = membersToParts([
    folder('a', 1),
    file('a/1'),
    file('a/z'),
    folder('c', 3),
    folder('a/b', 2),
    file('c/4'),
    file('a/b/2'),
  ]);
  const node = generateKeyPair();
  const backups = await Promise.all(
    [ordered, scattered].map(async (parts) => await openMade(await putTogether(parts, node))),
  );
  const trees = await Promise.all(
    backups.map(async (backup) => {
      const target = newTarget();
      expect(await backup.restore({ target })).toMatchObject({ restored: 7, errors: [] });
      const tree = snapshot(target);
      tree.delete('.');
      return tree;
    }),
  );
  expect(differences(trees[0] ?? new Map(), trees[1] ?? new Map())).toEqual([]);
  const [one, two] = backups;
  if (!one || !two) throw new Error('two were opened');
  expect([one.sorted, two.sorted]).toEqual([true, false]);
  for await (const difference of diff(one, two)) expect(difference).toBe(null);
  for (const backup of backups) await backup.close();
});

test('a cancelled restore ends at once, and what is there is whole', async () => {
  const stop = new AbortController();
  const target = newTarget();
  await using backup = await openMade(plain);
  const seen: RestoreProgress[] = [];
  let now = 0;
  const restoring = backup.restore({
    target,
    signal: stop.signal,
    clock: { now: () => (now += 1000) },
    onProgress: (progress) => {
      seen.push(progress);
      stop.abort();
    },
  });
  await expect(restoring).rejects.toMatchObject({ code: 'backups.cancelled' });
  expect(seen.length).toBe(1);
  const options = { ignore: ['links', 'same', 'mtime', 'mode', 'uid', 'gid'] };
  const truth = snapshot(source, options);
  for (const [path, facts] of existsSync(below(target)) ? snapshot(below(target), options) : [])
    expect(facts, path).toBe(truth.get(path));
});

test('a manifest that is too large for memory is kept beside, as it came', async () => {
  const parts = await takeApart(plain);
  const errors = Array.from({ length: 60_000 }, (_, at) => ({
    path: Buffer.from(noise(`path ${at}`, 150).toString('base64')),
    code: 'EIO',
    message: noise(`message ${at}`, 150).toString('base64'),
  }));
  const made = await putTogether({ ...parts, errors }, plain.node);
  expect(made.manifest.length).toBeGreaterThan(16 * 1024 * 1024);
  await using backup = await openMade(made);
  let count = 0;
  for await (const _ of backup.errors()) count += 1;
  expect(count).toBe(60_000);
  expect(await backup.restore({ target: newTarget() })).toMatchObject({ errors: [], archiveVerified: true });
});
