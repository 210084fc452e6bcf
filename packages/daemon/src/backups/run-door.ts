import {
  type CloseUpload,
  closeUpload,
  type LogLines,
  openUpload,
  postProgress,
  postRunLog,
  type RestoreSource,
  type RunGrant,
  restoreSource,
  type SignedRequest,
  type StartRun,
  signRequests,
  startRun,
} from '@aegis/protocol/backups/node-endpoints';
import type { RunObject, RunProgress } from '@aegis/protocol/backups/run';
import { AegisError, type ErrorCode } from '@aegis/protocol/errors';
import type * as z from 'zod/mini';
import { type Clock, pause } from '../platform/clock.ts';
import { backoff } from '../platform/http/backoff.ts';
import { type HttpClient, Unreachable } from '../platform/http/client.ts';
import type { Wanted } from './s3-signer.ts';

export type LogLine = z.infer<typeof LogLines>['lines'][number];

/** What a run asks of the server. A server that is away is waited for: how long, the run's own limit says. One that is there and cannot
 *  reach the destination is asked again for as long as the destination itself would be. */

/** Longer than the server itself waits for S3, tries of its own included: its word is better than none. */
const S3_MS = 400_000;
const OF_DESTINATION: readonly ErrorCode[] = ['backups.destination_failed', 'backups.destination_full'];

export type RunDoor = ReturnType<typeof runDoor>;

export const runDoor = ({
  client,
  random,
  clock,
  retryMs,
  signal,
}: {
  client: HttpClient;
  random: () => number;
  clock: Clock;
  /** How long a destination that fails the server is tried again. */
  retryMs: number;
  signal: AbortSignal;
}) => {
  const patiently = async <T>(call: () => Promise<T>): Promise<T> => {
    const wait = backoff({ random, firstMs: 500, maxMs: 30_000 });
    let failingSince: number | null = null;
    for (;;) {
      signal.throwIfAborted();
      try {
        return await call();
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof Unreachable)) throw error;
        const { cause } = error;
        if (cause instanceof AegisError && OF_DESTINATION.includes(cause.code)) {
          failingSince ??= clock.monotonic();
          if (clock.monotonic() - failingSince >= retryMs) throw cause;
        } else failingSince = null;
        await pause(wait.next(error.retryAfterMs), signal);
      }
    }
  };
  const of = (id: string) => ({ params: { id }, signal });
  return {
    start: (body: StartRun): Promise<RunGrant> => patiently(() => client.call(startRun, { body, signal })),
    openUpload: (id: string, attempt: number, object: RunObject): Promise<{ upload_id: string; key: string }> =>
      patiently(() => client.call(openUpload, { ...of(id), body: { attempt, object }, timeoutMs: S3_MS })),
    closeUpload: (id: string, body: CloseUpload): Promise<{ key: string; bytes: number }> =>
      patiently(() => client.call(closeUpload, { ...of(id), body, timeoutMs: S3_MS })),
    sign: async (runId: string, wanted: Wanted): Promise<SignedRequest> => {
      const { query = {}, headers = {}, content_length = 0, ...rest } = wanted;
      const body = { run_id: runId, requests: [{ ...rest, query, headers, content_length }] };
      const { signed } = await patiently(() => client.call(signRequests, { body, signal }));
      const [one] = signed;
      if (!one) throw new Unreachable('signBackupRequests: the answer holds no signature');
      return one;
    },
    source: (id: string): Promise<RestoreSource> => patiently(() => client.call(restoreSource, of(id))),
    /** One try each: the next ones tell the same. */
    progress: (id: string, body: RunProgress): Promise<{ cancelled: boolean }> =>
      client.call(postProgress, { ...of(id), body, timeoutMs: 10_000 }),
    log: (id: string, lines: LogLine[]): Promise<unknown> =>
      client.call(postRunLog, { params: { id }, body: { lines }, timeoutMs: 10_000 }),
  };
};
