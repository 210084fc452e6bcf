import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createDatabase } from './postgres.ts';

/** One PostgreSQL cluster for a whole test run, started by the first file that asks. The test runner's process (our parent) is
 *  what the run is: postgres-keeper.ts watches it and stops the cluster when it ends, however it ends. */

const DEADLINE_MS = 60_000;

/** The URL of a fresh, empty database. */
export const freshDatabase = async (): Promise<string> => createDatabase(await sharedCluster());

const sharedCluster = async (): Promise<string> => {
  const runner = process.ppid;
  const folder = join(tmpdir(), `aegis-postgres-run-${runner}`);
  const ready = join(folder, 'url');
  const failed = join(folder, 'failed');
  if (makes(folder)) {
    const keeper = fileURLToPath(new URL('./postgres-keeper.ts', import.meta.url));
    spawn(process.execPath, [keeper, String(runner), folder], { detached: true, stdio: 'ignore' }).unref();
  }
  const deadline = Date.now() + DEADLINE_MS;
  while (!existsSync(ready)) {
    if (existsSync(failed)) throw new Error(readFileSync(failed, 'utf8'));
    if (Date.now() > deadline) throw new Error(`the shared PostgreSQL did not start within ${DEADLINE_MS / 1000} s`);
    await delay(50);
  }
  return readFileSync(ready, 'utf8');
};

/** True for the one process that makes it. */
const makes = (folder: string): boolean => {
  try {
    mkdirSync(folder, { mode: 0o700 });
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false;
    throw error;
  }
};
