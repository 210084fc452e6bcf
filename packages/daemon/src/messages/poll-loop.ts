import { AegisError } from '@aegis/protocol/errors';
import type { PolledMessage } from '@aegis/protocol/messages/message';
import { answerMessage, pollMessages } from '@aegis/protocol/messages/node-endpoints';
import { pause } from '../platform/clock.ts';
import { type Backoff, backoff } from '../platform/http/backoff.ts';
import { type HttpClient, MAX_RETRY_AFTER_MS, Unreachable } from '../platform/http/client.ts';
import type { Logger } from '../platform/log.ts';
import type { Inbox } from './inbox.ts';

/** Asks for messages while there is no channel over which they would come: the oldest of each channel that this node is not at already. */

export interface MessagePollOptions {
  client: HttpClient;
  inbox: Pick<Inbox, 'take'>;
  /** Whether messages come over the channel at this moment, and who wants to know when that changes. */
  channel: { up(): boolean; onChange(listener: () => void): void };
  /** A channel that broke is mostly back soon: it is waited for so long first. */
  graceMs: number;
  waitSec: number;
  random: () => number;
  log: Logger;
  signal: AbortSignal;
}

const POLL_GRACE_MS = 15_000;
/** Of a server that does not know messages. */
const UNKNOWN_PAUSE_MS = 300_000;

export const messagePollLoop = (options: MessagePollOptions): Promise<void> => {
  const { client, channel, log, random, signal } = options;
  const wait = backoff({ random });
  const busy = new Set<string>();
  /** Ends the poll that is held: it asks for what it should not any more, or not for what it should. */
  let held = new AbortController();
  const renew = (): void => {
    held.abort();
    held = new AbortController();
  };
  channel.onChange(renew);

  /** By channel: of messages that could not be taken, one after the other. */
  const putOff = new Map<string, Backoff>();
  /** @returns how long its channel is not asked for */
  const answered = async (one: PolledMessage): Promise<number> => {
    const body = await options.inbox.take(one.channel, one).then(
      (result) => ({ message_id: one.message_id, result }),
      (error: unknown) => ({ message_id: one.message_id, error: told(error) }),
    );
    const again = backoff({ random });
    for (;;) {
      try {
        const { state } = await client.call(answerMessage, { body, signal });
        if (state !== 'queued' || !('error' in body)) {
          putOff.delete(one.channel);
          return 0;
        }
        // It waits at the server again, which would give it at once.
        const resting = putOff.get(one.channel) ?? backoff({ random });
        putOff.set(one.channel, resting);
        return Math.max(body.error.retry_after_ms ?? 0, resting.next());
      } catch (error) {
        // Over the channel, or by the next poll, it comes again, and is answered from the journal.
        if (signal.aborted || channel.up() || !(error instanceof Unreachable)) return 0;
        await pause(again.next(error.retryAfterMs), signal);
      }
    }
  };
  const take = (one: PolledMessage): void => {
    if (busy.has(one.channel)) return;
    busy.add(one.channel);
    void answered(one)
      .then((restMs) => (restMs > 0 ? pause(restMs, signal) : undefined))
      .finally(() => {
        busy.delete(one.channel);
        renew();
      });
  };
  const run = async (): Promise<void> => {
    while (!signal.aborted) {
      const { signal: stays } = held;
      if (channel.up()) {
        await pause(2 ** 31 - 1, AbortSignal.any([signal, stays]));
        await pause(options.graceMs, signal);
        continue;
      }
      try {
        const answer = await client.call(pollMessages, {
          query: { wait: options.waitSec, ...(busy.size > 0 ? { except: [...busy].join(',') } : {}) },
          timeoutMs: options.waitSec * 1000 + POLL_GRACE_MS,
          signal: AbortSignal.any([signal, stays]),
        });
        wait.reset();
        for (const one of answer.messages) take(one);
        if (answer.retry_after_ms !== undefined)
          await pause(Math.min(answer.retry_after_ms, MAX_RETRY_AFTER_MS) * (1 + random() / 4), signal);
      } catch (error) {
        if (signal.aborted || stays.aborted) continue;
        const unknown = error instanceof AegisError && error.code === 'http.not_found';
        const retryMs = unknown ? UNKNOWN_PAUSE_MS : wait.next(error instanceof Unreachable ? error.retryAfterMs : 0);
        log.debug({ err: error, retry_ms: Math.round(retryMs) }, 'messages cannot be asked for, trying again');
        await pause(retryMs, AbortSignal.any([signal, stays]));
      }
    }
  };
  return pause(options.graceMs, signal).then(run);
};

const told = (error: unknown) => {
  const { code, message, retryAfterSec } =
    error instanceof AegisError ? error : new AegisError('http.internal', 'The node failed within. Its log says how.');
  return { code, message, ...(retryAfterSec === undefined ? {} : { retry_after_ms: retryAfterSec * 1000 }) };
};
