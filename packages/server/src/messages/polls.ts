import { AegisError, isErrorCode } from '@aegis/protocol/errors';
import { isBuiltIn, MAX_NODE_CHANNELS, type MessageState, type PolledMessage } from '@aegis/protocol/messages/message';
import type { Bus } from '../platform/bus.ts';
import { wakeup } from '../platform/wakeup.ts';
import { type Delivery, queueTopic } from './delivery.ts';
import type { MessagesRepository } from './repository.ts';
import { verdictOf } from './verdict.ts';

/** The same queue for a node without a channel: it asks, is given the oldest message of each channel, and answers each by its id. So a message
 *  that began one way may end the other. */

export interface MessagePoll {
  waitSec: number;
  /** Channels whose message the node is at. */
  except: readonly string[];
  signal: AbortSignal;
  stopping: () => boolean;
}
export interface GivenAnswer {
  message_id: string;
  result?: unknown;
  error?: { code: string; message: string; retry_after_ms?: number | undefined } | undefined;
}

const RETRY_AFTER_STOP_MS = 2000;
/** Of a channel on which the node could not take what it was given: it would be given the same at once, again and again. */
const LEAST_REST_MS = 1000;
const MOST_REST_MS = 60_000;
/** Of messages in one answer; one is always given. */
const ANSWER_BYTES = 2 * 1024 * 1024;

export const messagePolls = ({
  repository,
  delivery,
  bus,
}: {
  repository: MessagesRepository;
  delivery: Delivery;
  bus: Bus;
}) => {
  /** By node and channel: until when it rests, by the monotonic clock. At another process it does not; an honest node waits by itself. */
  const resting = new Map<string, Map<string, number>>();
  const rest = (uid: string, channel: string, wantedMs: number): void => {
    const ms = Math.min(MOST_REST_MS, Math.max(LEAST_REST_MS, wantedMs));
    const channels = resting.get(uid) ?? new Map<string, number>();
    const until = performance.now() + ms;
    resting.set(uid, channels.set(channel, until));
    setTimeout(() => {
      if (channels.get(channel) !== until) return; // put off again meanwhile
      channels.delete(channel);
      if (channels.size === 0) resting.delete(uid);
    }, ms).unref();
  };
  const rests = (uid: string, channel: string): boolean => (resting.get(uid)?.get(channel) ?? 0) > performance.now();
  /** When the first of those that rest has its turn again: without a wake-up. */
  const nextTurn = (uid: string): number => {
    const now = performance.now();
    return Math.min(...[...(resting.get(uid)?.values() ?? [])].filter((until) => until > now));
  };
  const dueFor = async (uid: string, except: readonly string[]): Promise<PolledMessage[]> => {
    const due: PolledMessage[] = [];
    let bytes = 0;
    const busy = new Set(except);
    for (const channel of await repository.channelsOf(uid, 2 * MAX_NODE_CHANNELS)) {
      if (busy.has(channel) || isBuiltIn(channel) || rests(uid, channel)) continue;
      let head = await repository.headOf(uid, channel);
      while (head) {
        bytes += head.encrypted_payload.length;
        if (due.length > 0 && bytes > ANSWER_BYTES) return due;
        const row = await delivery.claim(head);
        if (row) {
          due.push({ channel, ...row.given });
          break;
        }
        head = await repository.headOf(uid, channel); // that one had ended: the next has its turn
      }
    }
    return due;
  };
  return {
    poll: async (uid: string, { waitSec, except, signal, stopping }: MessagePoll) => {
      const own = wakeup();
      const wake = (): void => own.wake();
      signal.addEventListener('abort', wake, { once: true });
      using _subscribed = bus.subscribe(queueTopic(uid), wake); // before the first look
      try {
        const until = performance.now() + waitSec * 1000;
        for (;;) {
          if (signal.aborted) break;
          const turn = nextTurn(uid); // before the look: one that is over by then is in it
          const messages = await dueFor(uid, except);
          const left = until - performance.now();
          if (messages.length > 0 || left <= 0) return { messages };
          await own.wait(Math.min(left, turn - performance.now()));
        }
        return { messages: [], ...(stopping() ? { retry_after_ms: RETRY_AFTER_STOP_MS } : {}) };
      } finally {
        signal.removeEventListener('abort', wake);
      }
    },
    /** @throws AegisError messages.unknown_message: also for one that is another node's */
    answer: async (uid: string, { message_id, result, error }: GivenAnswer): Promise<MessageState> => {
      const row = await repository.byId(uid, message_id);
      if (!row) throw new AegisError('messages.unknown_message', 'The server has no such message for this node.');
      // One that was never given was not answered either: nothing it says of that counts.
      if (row.processed_at !== null || row.status !== 'sent') return row.status;
      const answer = error ? { error: errorOf(error) } : { result };
      const verdict = 'error' in answer ? verdictOf(answer) : null;
      // Before it waits again, which wakes the node's poll.
      if (verdict && !('end' in verdict)) rest(uid, row.channel, verdict.againInMs ?? 0);
      await delivery.answered(row, answer);
      return (await repository.byId(uid, message_id))?.status ?? row.status;
    },
  };
};

const errorOf = ({ code, message, retry_after_ms }: NonNullable<GivenAnswer['error']>): AegisError =>
  new AegisError(isErrorCode(code) ? code : 'http.internal', message, {
    ...(retry_after_ms === undefined ? {} : { retryAfterSec: Math.ceil(retry_after_ms / 1000) }),
  });
