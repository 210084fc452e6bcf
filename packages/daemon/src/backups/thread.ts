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

/** Ends it, and waits for that no longer than it may take: a thread that hangs in a system call (a dead network file system) cannot be ended
 *  before that returns. It runs no JavaScript any more, though, so what it worked on may be cleared away. */
export const endThread = async (worker: Worker, graceMs: number): Promise<void> => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, graceMs);
  try {
    await Promise.race([worker.terminate(), promise]);
  } finally {
    clearTimeout(timer);
  }
};

/** Beside this file, or beside the bundle that it became a part of. */
const threadFile = (): string => {
  const here = dirname(fileURLToPath(import.meta.url));
  const source = join(here, 'thread-main.ts');
  return existsSync(source) ? source : join(here, 'backup-thread.cjs');
};
