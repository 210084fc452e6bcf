import { AegisError } from '@aegis/protocol/errors';
import { pause } from '../platform/clock.ts';
import type { Backoff } from '../platform/http/backoff.ts';
import { MAX_RETRY_AFTER_MS, Unreachable } from '../platform/http/client.ts';
import type { Logger } from '../platform/log.ts';
import type { CarrierHandlers } from './carrier.ts';

/** The one loop that asks for work: poll, hand over, acknowledge, again. An acknowledgement that did not get through is sent with
 *  the next; until then the server offers the same again, which changes nothing. */

export interface PollLoopOptions {
  /** One long poll. */
  poll(options: { waitSec: number; resume: boolean }): Promise<{
    commands: readonly unknown[];
    desired?: number | undefined;
    retry_after_ms?: number | undefined;
  }>;
  acknowledge(ids: readonly string[]): Promise<unknown>;
  handlers: CarrierHandlers;
  waitSec: number;
  backoff: Backoff;
  random: () => number;
  log: Logger;
  signal: AbortSignal;
  onContact(error: Error | null): void;
}

const FULL_PAUSE_MS = 5000;
const BACKLOG_PAUSE_MS = 25;
const ACK_LIMIT = 1000;

export const runPollLoop = async (options: PollLoopOptions): Promise<void> => {
  const { poll, handlers, waitSec, backoff, random, log, signal, onContact } = options;
  // Asks for all that the server believes open here: after our start, and whenever it was away. The answer that broke off may have
  // held an offer, and the server that comes back may have been restored from a backup older than what we told it.
  let resume = true;
  const unacknowledged = new Set<string>();
  while (!signal.aborted) {
    let retryAfterMs = 0;
    try {
      await acknowledgeAll(unacknowledged, options); // what the last round could not: not after another long poll
      const answer = await poll({ waitSec: handlers.hasRoom() ? waitSec : 0, resume });
      onContact(null);
      resume = false;
      // A smaller one too: the server was restored from a backup.
      if (answer.desired !== undefined && answer.desired !== handlers.desiredRevision())
        handlers.desired(answer.desired);
      if (answer.commands.length > 0) for (const id of await handlers.offers(answer.commands)) unacknowledged.add(id);
      await acknowledgeAll(unacknowledged, options);
      backoff.reset();
      if (answer.retry_after_ms !== undefined) {
        resume = true; // it is going away
        retryAfterMs = Math.min(answer.retry_after_ms, MAX_RETRY_AFTER_MS) * (1 + random() / 4);
      } else if (!handlers.hasRoom()) retryAfterMs = FULL_PAUSE_MS;
      else if (handlers.hasBacklog()) retryAfterMs = BACKLOG_PAUSE_MS;
    } catch (error) {
      if (signal.aborted) return;
      const failure = error instanceof Error ? error : new Error(String(error));
      onContact(failure);
      resume = true;
      retryAfterMs = backoff.next(error instanceof Unreachable ? error.retryAfterMs : 0);
      if (backoff.failures === 1)
        log.warn(
          { err: failure, retry_ms: Math.round(retryAfterMs) },
          'cannot take work from the server, trying again',
        );
    }
    if (retryAfterMs > 0) await pause(retryAfterMs, signal);
  }
};

const acknowledgeAll = async (ids: Set<string>, { acknowledge }: PollLoopOptions): Promise<void> => {
  while (ids.size > 0) {
    const some = [...ids].slice(0, ACK_LIMIT);
    try {
      await acknowledge(some);
    } catch (error) {
      // The server knows none of them (it was restored from a backup): nobody waits for this, and it must not end the polling.
      if (!(error instanceof AegisError) || error.code !== 'commands.unknown_execution') throw error;
    }
    for (const id of some) ids.delete(id);
  }
};
