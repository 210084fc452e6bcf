import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { startPostgres } from './postgres.ts';

/** Keeps the shared cluster for as long as the process `runner` lives. */
const [runner = '', folder = ''] = process.argv.slice(2);

const lives = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false; // the run is over
  }
};

try {
  await using cluster = await startPostgres();
  writeFileSync(join(folder, 'url.new'), cluster.adminUrl, { mode: 0o600 });
  renameSync(join(folder, 'url.new'), join(folder, 'url'));
  while (lives(Number(runner))) await delay(300);
} catch (error) {
  writeFileSync(join(folder, 'failed'), error instanceof Error ? error.message : String(error));
  while (lives(Number(runner))) await delay(300);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
