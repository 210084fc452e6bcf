import type { Worker } from 'node:worker_threads';
import { AegisError, isErrorCode } from '@aegis/protocol/errors';
import type { ArchiveJob, ArchiveProgress, FromWorker, SpooledPart, ToWorker } from './archive-job.ts';
import type { Archived } from './repository.ts';
import { endThread, startThread } from './thread.ts';

/** Packs an archive in a thread of its own, which ends with it: between two backups nothing of it is left in memory. */

export interface Archiving {
  /** When all is written. @throws AegisError backups.* */
  done: Promise<Archived>;
  /** A part was uploaded: another may be written. */
  room(): void;
  /** Nobody wants the archive any more. Resolves once nothing of it is written: only then may what was written be cleared away. */
  end(): Promise<void>;
}

export type Archiver = (
  job: ArchiveJob,
  on: { part(part: SpooledPart, last: boolean): void; progress(progress: ArchiveProgress): void; signal: AbortSignal },
) => Archiving;

/** How long the thread may take to notice that nobody wants its archive any more: it may hang on a dead network file system. */
const ABORT_MS = 5000;

/** @param nativeDir where the addon lies, if not at the usual place */
export const threadArchiver =
  ({ nativeDir, abortMs = ABORT_MS }: { nativeDir: string | undefined; abortMs?: number }): Archiver =>
  (job, { part, progress, signal }) => {
    const worker: Worker = startThread(job, nativeDir);
    const say = (message: ToWorker): void => worker.postMessage(message);
    const unwanted = new AbortController();
    const over = AbortSignal.any([signal, unwanted.signal]);
    let timer: NodeJS.Timeout | null = null;
    let onAbort = (): void => undefined;
    const done = new Promise<Archived>((resolve, reject) => {
      const ended = (): void =>
        reject(new AegisError('backups.cancelled', 'The thread that packs the archive was ended.'));
      onAbort = (): void => {
        say({ type: 'abort' });
        timer = setTimeout(ended, abortMs);
      };
      worker.on('message', (message: FromWorker) => {
        if (message.type === 'part') part(message.part, message.last);
        else if (message.type === 'progress') progress(message.progress);
        else if (message.type === 'done') resolve(message.archived);
        else reject(failureOf(message, job));
      });
      worker.on('error', (cause) =>
        reject(
          new AegisError('http.internal', `The thread that packs the archive failed: ${String(cause)}`, { cause }),
        ),
      );
      worker.on('exit', ended);
      if (over.aborted) onAbort();
      over.addEventListener('abort', onAbort, { once: true });
    }).finally(async () => {
      over.removeEventListener('abort', onAbort);
      if (timer) clearTimeout(timer);
      await endThread(worker, abortMs);
    });
    done.catch(() => undefined); // whoever waits for it hears of it
    return {
      done,
      room: () => say({ type: 'room' }),
      end: async () => {
        unwanted.abort();
        await done.catch(() => undefined);
      },
    };
  };

const NO_ROOM: readonly string[] = ['ENOSPC', 'EDQUOT', 'EFBIG'];
const failureOf = (
  { code, errno, message }: Extract<FromWorker, { type: 'failed' }>,
  { output }: ArchiveJob,
): AegisError => {
  if (code !== null && isErrorCode(code)) return new AegisError(code, message);
  if (errno !== null && NO_ROOM.includes(errno))
    return output.kind === 'spool'
      ? new AegisError(
          'backups.storage_full',
          `There is no room for the parts that wait to be uploaded (${message}): free disk space below data_dir, or lower backups_spool_parts.`,
        )
      : new AegisError('backups.destination_full', `The destination is full (${message}): make room there.`);
  return new AegisError('http.internal', `The archive could not be made: ${message}`);
};
