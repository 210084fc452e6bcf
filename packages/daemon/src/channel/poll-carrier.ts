import { ackCommands, pollCommands, pushLogs, pushStatus, putOutput } from '@aegis/protocol/commands/endpoints';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import { backoff } from '../platform/http/backoff.ts';
import type { HttpClient } from '../platform/http/client.ts';
import type { Logger } from '../platform/log.ts';
import type { Carrier, CarrierStatus } from './carrier.ts';
import { runPollLoop } from './poll-loop.ts';

/** The carrier: calls of its client, which go over the channel while that is up and are HTTP requests while it is not; work is waited for by
 *  a poll that the server holds. */

// Offers are read one by one, so that one that this release does not understand does not hide the others.
const Count = z.int().check(z.minimum(0));
const PollFrame = z.object({
  commands: z.array(z.unknown()),
  desired: z.optional(Count),
  retry_after_ms: z.optional(Count),
});
const poll = { ...pollCommands, response: PollFrame } as const;
const POLL_GRACE_MS = 15_000;
const OUTPUT_TIMEOUT_MS = 120_000;

export interface PollCarrierOptions {
  client: HttpClient;
  renewTokenWhenDue(): Promise<void>;
  waitSec: number;
  /** Calls `listener` when calls go another way from now on: a poll that is held on the old one is given up. */
  onMove?(listener: () => void): void;
  /** What calls go over at this moment. */
  way?(): string;
  clock: Clock;
  random: () => number;
  log: Logger;
}

export const pollCarrier = ({
  client,
  renewTokenWhenDue,
  waitSec,
  onMove,
  way = () => 'poll',
  clock,
  random,
  log,
}: PollCarrierOptions): Carrier => {
  const polling = new AbortController();
  const sending = new AbortController();
  let loop: Promise<void> = Promise.resolve();
  let status: CarrierStatus = { kind: way(), connected: false, lastContactMs: null, lastError: null };
  const { signal } = sending;
  let held = new AbortController();
  onMove?.(() => {
    held.abort();
    held = new AbortController();
  });

  return {
    start: (handlers) => {
      const onContact = (error: Error | null): void => {
        const was = status;
        status = error
          ? { ...was, connected: false, lastError: error.message }
          : { ...was, connected: true, lastContactMs: clock.now(), lastError: null };
        if (was.connected !== status.connected) {
          if (status.connected) log.info('the server answers');
          handlers.reachable?.(status.connected);
        }
      };
      loop = runPollLoop({
        poll: async ({ waitSec: wait, resume }) => {
          await renewTokenWhenDue();
          const { signal: stays } = held;
          try {
            return await client.call(poll, {
              query: { wait, desired: handlers.desiredRevision(), ...(resume ? { resume: 'true' } : {}) },
              timeoutMs: wait * 1000 + POLL_GRACE_MS,
              signal: AbortSignal.any([polling.signal, stays]),
            });
          } catch (error) {
            if (!stays.aborted || polling.signal.aborted) throw error;
            return { commands: [], retry_after_ms: 0 }; // what it would have brought is asked for again, on the new way
          }
        },
        acknowledge: (ids) => client.call(ackCommands, { body: { ids: [...ids] }, signal }),
        handlers,
        waitSec,
        backoff: backoff({ random }),
        random,
        log,
        signal: polling.signal,
        onContact,
      });
    },
    sendReports: async (reports) =>
      (await client.call(pushStatus, { body: { reports: [...reports] }, signal })).results,
    sendOutput: async (id, stream, offset, bytes) =>
      (
        await client.call(putOutput, {
          params: { id, stream },
          query: { offset },
          body: bytes,
          timeoutMs: OUTPUT_TIMEOUT_MS,
          signal,
        })
      ).next,
    sendChunks: async (commandId, executionId, chunks) =>
      (
        await client.call(pushLogs, {
          body: { command_id: commandId, execution_id: executionId, chunks: [...chunks] },
          signal,
        })
      ).next,
    status: () => ({ ...status, kind: way() }),
    endOffers: () => polling.abort(),
    stop: async () => {
      polling.abort();
      sending.abort();
      await loop;
    },
  };
};
