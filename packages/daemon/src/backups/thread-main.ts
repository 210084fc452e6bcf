import { parentPort, workerData } from 'node:worker_threads';
import { AegisError } from '@aegis/protocol/errors';
import type { ArchiveJob, Failed } from './archive-job.ts';
import type { RestoreJob } from './restore-job.ts';

/** Where a thread begins: one job, and it ends. */

const port = parentPort;
const job = workerData as ArchiveJob | RestoreJob;

const work = async (): Promise<void> => {
  if (!port) return;
  if (job.kind === 'archive') {
    const { archive } = await import('./archive-worker.ts');
    await archive(
      job,
      (message) => port.postMessage(message),
      (take) => port.on('message', take),
    );
  } else {
    const { restore } = await import('./restore-worker.ts');
    await restore(
      job,
      (message) => port.postMessage(message),
      (take) => port.on('message', take),
    );
  }
};

work()
  .catch((error: unknown) => {
    const known = error instanceof AegisError;
    const errno = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : null;
    const message = error instanceof Error ? error.message : String(error);
    const failed: Failed = { type: 'failed', code: known ? error.code : null, errno: known ? null : errno, message };
    port?.postMessage(failed);
  })
  .finally(() => port?.close());
