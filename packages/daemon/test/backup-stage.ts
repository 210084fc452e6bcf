import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import type { BackupServer, ServedRun } from './backup-server.ts';
import { waitFor } from './wait-for.ts';

/** What tests of backups need besides a server and a node: trees to back up, and stock tools to look at what came of it. */

const made: string[] = [];
afterAll(() => {
  for (const path of made.splice(0)) rmSync(path, { recursive: true, force: true, maxRetries: 3 });
});
/** A folder that goes with the test file: concurrent tests have no hook of their own here. */
export const tempFolder = (name = 'backup'): string => {
  const path = mkdtempSync(join(tmpdir(), `aegis-${name}-`));
  made.push(path);
  return path;
};

/** Small files and one that does not pack, of so many MiB. */
export const plantTree = (root: string, mib: number): void => {
  mkdirSync(join(root, 'sub', 'deep'), { recursive: true });
  for (let at = 0; at < 50; at++) writeFileSync(join(root, 'sub', `small ${at}`), `${at}\n`.repeat(at));
  for (let at = 0; at < mib; at++)
    writeFileSync(join(root, 'sub', 'deep', 'random'), randomBytes(1024 * 1024), { flag: 'a' });
  symlinkSync('sub/deep/random', join(root, 'link'));
};

/** One line for each thing below `root`: kind, mode, size, link, digest. */
export const listing = (root: string): string =>
  execFileSync(
    'sh',
    [
      '-c',
      `cd "$0" && find . -printf '%y %m %U %G %T@ %l %P\\n' | sort && find . -type f -print0 | sort -z | xargs -0 -r sha256sum`,
      root,
    ],
    { encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 },
  );

/** By zstd and tar alone: what lies at the destination is what lies in `source`. */
export const unpack = (archive: Buffer, source: string): string => {
  const target = tempFolder('unpacked');
  execFileSync('sh', ['-c', 'zstd -qdc | tar -x --numeric-owner -p -C "$0"', target], { input: archive });
  return join(target, source);
};

/** The one run of a configuration (the `nth` of several) once it has ended at the server. */
export const endedRun = (server: BackupServer, configId: string, nth = 0, deadlineMs = 60_000): Promise<ServedRun> =>
  waitFor(
    'the end of a run',
    () => {
      const run = server.runsOf(configId)[nth];
      return run?.end ? run : null;
    },
    deadlineMs,
  );
