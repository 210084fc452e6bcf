import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, expect, onTestFinished, test } from 'vitest';
import { makeBackup, openMade } from './backup-maker.ts';
import { makeHostileTree, makeLargeXattrs } from './hostile-tree.ts';
import { differences, snapshot } from './tree-compare.ts';

/** A tree of everything, backed up and restored: by Aegis, and by age, zstd and GNU tar alone. */

let base = '';
let source = '';
let wanted: Map<string, string>;
beforeAll(() => {
  base = mkdtempSync(join(tmpdir(), 'aegis-round-trip-'));
  source = join(base, 'source');
  makeHostileTree(source);
  wanted = snapshot(source);
  return () => rmSync(base, { recursive: true });
});

const target = (): string => {
  const dir = mkdtempSync(join(base, 'target-'));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  return dir;
};
const restoredIn = (dir: string): string => join(dir, source.slice(1));

test('every byte, time, mode, owner, attribute, link and hole comes back', async () => {
  const made = await makeBackup([source]);
  expect(made.result.errors).toEqual([]);
  await using backup = await openMade(made);
  const dir = target();
  const result = await backup.restore({ target: dir, owners: true, setuid: true });
  expect(result).toMatchObject({ restored: wanted.size, skipped: 0, deleted: 0, errors: [], archiveVerified: true });
  expect(differences(wanted, snapshot(restoredIn(dir)))).toEqual([]);

  expect(await backup.verify()).toMatchObject({ errorCount: 0, archiveVerified: true, entries: wanted.size - 1 }); // but the socket

  // Of the same archive stock tools restore all but what GNU tar has no calls for: paths beyond PATH_MAX, which it names.
  const byStock = target();
  const { code, said } = await stock('zstd -dc', made.archive, byStock);
  const tooLong = said.split('\n').filter((line) => line.includes('File name too long'));
  expect([code, tooLong.length > 20]).toEqual([2, true]);
  expect(said.split('\n').filter((line) => line !== '' && !tooLong.includes(line))).toEqual([
    'tar: Exiting with failure status due to previous errors',
  ]);
  // A level above that: the last folder that it makes lacks its own.
  const within = ([path, facts]: readonly [string, string]): boolean =>
    source.length + path.length < 4096 - 201 && !facts.includes('"kind":"socket"');
  const restored = snapshot(restoredIn(byStock));
  expect(restored.size).toBeGreaterThan(50_500);
  expect(differences(new Map([...wanted].filter(within)), new Map([...restored].filter(within)))).toEqual([]);
}, 180_000);

test('the same comes out of age, zstd and tar without Aegis', async () => {
  const plain = join(base, 'for-tar');
  makeHostileTree(plain, { manyEntries: 1000, beyondPathMax: false });
  const made = await makeBackup([plain], { encrypted: true });
  const dir = target();
  const identity = join(base, 'identity');
  writeFileSync(identity, `${made.identity}\n`, { mode: 0o600 });
  expect(await stock(`age -d -i '${identity}' | zstd -dc`, made.archive, dir)).toEqual({ code: 0, said: '' });
  expect(differences(snapshot(plain, STOCK_HAS_NO), snapshot(join(dir, plain.slice(1)), STOCK_HAS_NO))).toEqual([]);

  await using backup = await openMade(made);
  const mine = target();
  expect(await backup.restore({ target: mine, owners: true, setuid: true })).toMatchObject({ errors: [] });
  const wanted = snapshot(plain);
  const mineNow = () => snapshot(join(mine, plain.slice(1)));
  expect(differences(wanted, mineNow())).toEqual([]);

  // Once more over what is there already: everything is replaced, and nothing else is left.
  const again = await backup.restore({ target: mine, owners: true, setuid: true, overwrite: 'always' });
  expect(again).toMatchObject({ restored: wanted.size, errors: [] });
  expect(differences(wanted, mineNow())).toEqual([]);
  const never = await backup.restore({ target: mine, owners: true, setuid: true });
  expect(never).toMatchObject({ restored: 0, skipped: wanted.size, errors: [] });
  expect(differences(wanted, mineNow())).toEqual([]);
}, 180_000);
/** GNU tar stores no sockets, and so restores none. */
const STOCK_HAS_NO = { without: ['socket'] };
/** An archive through stock tools alone, into `dir`. `unpack`: shell, from the archive to the tar. */
const stock = async (unpack: string, archive: Buffer, dir: string): Promise<{ code: number | null; said: string }> => {
  const pipe = `${unpack} | tar -C '${dir}' --xattrs --xattrs-include='*' --acls --numeric-owner --warning=no-timestamp -xpf -`;
  const tar = spawn('sh', ['-c', pipe], { stdio: ['pipe', 'inherit', 'pipe'], env: { ...process.env, LANG: 'C' } });
  let said = '';
  tar.stderr.on('data', (text: Buffer) => {
    said += text.toString('utf8');
  });
  tar.stdin.end(archive);
  return { code: await new Promise((resolve) => tar.on('close', resolve)), said };
};

test('attributes of 64 KiB on tmpfs', async () => {
  const from = mkdtempSync('/dev/shm/aegis-xattrs-');
  onTestFinished(() => rmSync(from, { recursive: true }));
  makeLargeXattrs(join(from, 'source'));
  const made = await makeBackup([join(from, 'source')]);
  expect(made.result.errors).toEqual([]);
  await using backup = await openMade(made);
  mkdirSync(join(from, 'target'));
  expect(await backup.restore({ target: join(from, 'target'), owners: true })).toMatchObject({ errors: [] });
  const wanted = snapshot(join(from, 'source'));
  expect(differences(wanted, snapshot(join(from, 'target', from.slice(1), 'source')))).toEqual([]);
  mkdirSync(join(from, 'by-stock'));
  expect(await stock('zstd -dc', made.archive, join(from, 'by-stock'))).toEqual({ code: 0, said: '' });
  expect(differences(wanted, snapshot(join(from, 'by-stock', from.slice(1), 'source')))).toEqual([]);
});
