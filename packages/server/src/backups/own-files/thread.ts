import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { AegisError, isErrorCode } from '@aegis/protocol/errors';
import type { FromThread, OwnJob, OwnProgress, Stored } from './job.ts';

/** Packs and stores an archive in a thread of its own: the server answers others meanwhile. */

export type StoreArchive = (
  job: OwnJob,
  on: { progress(progress: OwnProgress, uploaded: number): void; signal: AbortSignal },
) => Promise<Stored>;

/** How long the thread may take to notice that nobody wants its archive any more, and to abort its uploads. */
const ABORT_MS = 10_000;

/** @throws AegisError backups.*; http.internal when the thread dies */
export const storeInThread: StoreArchive = (job, { progress, signal }) => {
  const worker = new Worker(threadFile(), { workerData: job, name: 'own-backup', execArgv: [] });
  let timer: NodeJS.Timeout | null = null;
  const abort = (): void => {
    worker.postMessage('abort');
    timer = setTimeout(() => void worker.terminate(), ABORT_MS);
  };
  return new Promise<Stored>((resolve, reject) => {
    worker.on('message', (message: FromThread) => {
      if (message.type === 'progress') progress(message.progress, message.uploaded);
      else if (message.type === 'done') resolve(message.stored);
      else reject(failureOf(message));
    });
    worker.on('error', (cause) =>
      reject(new AegisError('http.internal', 'The thread that packs the archive failed.', { cause })),
    );
    worker.on('exit', () =>
      reject(new AegisError('backups.cancelled', 'The thread that packs the archive was ended.')),
    );
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
  }).finally(async () => {
    signal.removeEventListener('abort', abort);
    if (timer) clearTimeout(timer);
    await worker.terminate();
  });
};

const failureOf = ({ code, message }: Extract<FromThread, { type: 'failed' }>): AegisError =>
  code !== null && isErrorCode(code)
    ? new AegisError(code, message)
    : new AegisError('backups.destination_failed', `The archive could not be stored: ${message.slice(0, 500)}`);

/** Beside this file, or beside the bundle that it became a part of. */
const threadFile = (): string => {
  const here = dirname(fileURLToPath(import.meta.url));
  const source = join(here, 'thread-main.ts');
  return existsSync(source) ? source : join(here, 'own-backup-thread.cjs');
};
