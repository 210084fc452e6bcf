import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { ArchiveJob } from './archive-job.ts';
import type { RestoreJob } from './restore-job.ts';

/** A thread for the work of one backup or restore: thread-main.ts, which ends with it. */
export const startThread = (job: ArchiveJob | RestoreJob, nativeDir: string | undefined): Worker => {
  const env = { ...process.env, ...(nativeDir === undefined ? {} : { AEGIS_NATIVE_DIR: nativeDir }) };
  // Without this process's own options: some (--input-type) are refused by a thread.
  return new Worker(threadFile(), { workerData: job, env, name: job.kind, execArgv: [] });
};

/** Beside this file, or beside the bundle that it became a part of. */
const threadFile = (): string => {
  const here = dirname(fileURLToPath(import.meta.url));
  const source = join(here, 'thread-main.ts');
  return existsSync(source) ? source : join(here, 'backup-thread.cjs');
};
