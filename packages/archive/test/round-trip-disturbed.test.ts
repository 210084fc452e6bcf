import { execFileSync } from 'node:child_process';
import { appendFileSync, chmodSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, expect, test } from 'vitest';
import { filesWith } from './backup-files.ts';
import { type MadeBackup, makeBackup, openMade } from './backup-maker.ts';
import { makeHostileTree, noise } from './hostile-tree.ts';
import { differences, snapshot } from './tree-compare.ts';

/** Trees that are not read as they stand, backed up and restored: whatever is not equal afterwards was listed as an error. */

let base = '';
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'aegis-disturbed-'));
  chmodSync(base, 0o755);
  return () => rmSync(base, { recursive: true });
});

const restored = async (made: MadeBackup, source: string): Promise<Map<string, string>> => {
  const target = mkdtempSync(join(base, 'target-'));
  await using backup = await openMade(made);
  expect(await backup.restore({ target, owners: true, setuid: true })).toMatchObject({ errors: [] });
  expect(await backup.verify()).toMatchObject({ errorCount: 0, archiveVerified: true });
  return snapshot(join(target, source.slice(1)));
};
/** Paths below the source, as the manifest lists them. */
const listed = ({ manifest }: MadeBackup, source: string): string[] =>
  execFileSync('zstd', ['-dc'], { input: manifest, encoding: 'utf8', maxBuffer: 64 * 1024 ** 2 })
    .split('\n')
    .filter((line) => line.startsWith('{"type":"error"'))
    .map((line) => JSON.parse(line) as { path?: string; path_b64?: string })
    .map(({ path = '', path_b64 = '' }) => `${Buffer.from(path).toString('latin1')}${atob(path_b64)}`)
    .map((path) => path.slice(source.length))
    .sort();
/** Without what was listed, and what is below it. */
const without = (tree: ReadonlyMap<string, string>, paths: readonly string[]): Map<string, string> =>
  new Map([...tree].filter(([path]) => !paths.some((one) => path === one || path.startsWith(`${one}/`))));
/** As anybody but root sees it: the kernel tells nobody else of trusted attributes. */
const seenByAll = (tree: ReadonlyMap<string, string>): Map<string, string> =>
  new Map([...tree].map(([path, facts]) => [path, facts.replace(/"trusted\.[^"]*",?/g, '').replace(',]', ']')]));

test('by a user who may not read all of it', async () => {
  const source = join(base, 'source');
  makeHostileTree(source, { manyEntries: 50, sparseBytes: 1024 ** 3 });
  const wanted = seenByAll(snapshot(source));
  await makeBackup([source]); // what is loaded lazily is loaded by now
  let made: MadeBackup;
  process.setegid?.(65_534);
  process.seteuid?.(65_534);
  try {
    made = await makeBackup([source]);
  } finally {
    process.seteuid?.(0);
    process.setegid?.(0);
  }
  const unread = listed(made, source);
  expect(unread).toEqual(expect.arrayContaining(['modes/file-0', 'modes/folder-400', 'links/farm-0']));
  expect(unread.length).toBe(made.result.totals.errors);
  expect(unread.length).toBeLessThan(wanted.size / 2);
  expect(new Set(made.result.errors.map(({ code }) => code))).toEqual(new Set(['EACCES']));
  expect(differences(without(wanted, unread), without(await restored(made, source), unread))).toEqual([]);
});

test('while it changes', async () => {
  const source = join(base, 'source');
  mkdirSync(source);
  const path = (name: string): string => join(source, name);
  const names = ['appended', 'cut', 'rewritten', 'replaced', 'removed', 'still'];
  for (const name of names) writeFileSync(path(name), noise(name, 9 * 1024 ** 2));
  const wanted = snapshot(source);
  const files = filesWith(
    { name: 'appended', at: 2, happens: () => appendFileSync(path('appended'), 'more') },
    { name: 'cut', at: 2, happens: () => truncateSync(path('cut'), 5_000_001) },
    { name: 'rewritten', at: 2, happens: () => writeFileSync(path('rewritten'), noise('other', 9 * 1024 ** 2)) },
    { name: 'removed', at: 'opening', happens: () => rmSync(path('removed')) },
  );
  const made = await makeBackup([source], { files });
  const disturbed = listed(made, source);
  expect(disturbed).toEqual(['appended', 'cut', 'removed', 'rewritten']);
  const got = await restored(made, source);
  expect([...got.keys()].sort()).toEqual(['.', ...names.filter((name) => name !== 'removed')].sort());
  expect(differences(without(wanted, [...disturbed, '.']), without(got, [...disturbed, '.']))).toEqual([]);
});
