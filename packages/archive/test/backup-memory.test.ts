import { execFileSync } from 'node:child_process';
import { linkSync, mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { generateIdentity } from '../src/backup/age/keys.ts';
import { temporaryFolder } from './backup-writer.ts';

/** The process with the runtime in it, which alone takes half of that. */
const MOST_RSS_KIB = 200 * 1024;

interface Taken {
  totals: { files: number; bytes: number };
  maxRssKiB: number;
}
const backUp = (source: string, recipient = ''): Taken =>
  JSON.parse(
    execFileSync(process.execPath, [join(import.meta.dirname, 'memory-process.ts'), source, recipient], {
      encoding: 'utf8',
    }),
  );

test('1 GiB in one file, encrypted, take no more memory than a small one', () => {
  const folder = temporaryFolder();
  writeFileSync(join(folder, 'large'), '');
  truncateSync(join(folder, 'large'), 1024 ** 3);
  const { totals, maxRssKiB } = backUp(folder, generateIdentity().recipient);
  expect(totals).toMatchObject({ files: 1, bytes: 1024 ** 3 });
  expect(maxRssKiB).toBeLessThan(MOST_RSS_KIB);
});

test('so do twenty thousand names of ten thousand files', () => {
  const folder = temporaryFolder();
  for (const name of ['a', 'b']) mkdirSync(join(folder, name));
  for (let at = 0; at < 10_000; at++) {
    writeFileSync(join(folder, 'a', `file-${at}`), `${at}`);
    linkSync(join(folder, 'a', `file-${at}`), join(folder, 'b', `file-${at}`));
  }
  const { totals, maxRssKiB } = backUp(folder);
  expect(totals.files).toBe(20_000);
  expect(maxRssKiB).toBeLessThan(MOST_RSS_KIB);
});

/** Anybody who may make folders makes such a chain. With a path of its own for each level it took twice as much memory, and at a hundred thousand levels all of it. */
test('neither do ten thousand folders, one in another', () => {
  const folder = temporaryFolder();
  const here = process.cwd();
  try {
    process.chdir(folder);
    for (let level = 0; level < 10_000; level++) {
      mkdirSync('an');
      process.chdir('an');
    }
  } finally {
    process.chdir(here);
  }
  const { totals, maxRssKiB } = backUp(folder);
  expect(totals).toMatchObject({ files: 0 });
  expect(maxRssKiB).toBeLessThan(2 * MOST_RSS_KIB);
});
