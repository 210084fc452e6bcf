import { AegisError } from '@aegis/protocol/errors';
import { MAX_NODE_CHANNELS } from '@aegis/protocol/messages/message';
import type { Bus } from '../platform/bus.ts';
import type { Log } from '../platform/log.ts';
import { type Delivery, queueTopic } from './delivery.ts';
import type { MessagesRepository } from './repository.ts';
import { endedBy } from './verdict.ts';

/** Carries a node's messages over its connection: those of one channel one after the other, each only when the one before has ended; channels
 *  beside each other. Only the process that holds the connection has one of it, and what it carries stands in the queue: a wake-up says that
 *  there may be something, and nothing else. */

/** A node's connection, as messages need it. */
export interface NodeConnection {
  readonly uid: string;
  /** That the node has hooks for; null for one that did not say. */
  readonly channels: readonly string[] | null;
  /** @throws AegisError as the node said; anything when no answer came */
  request(channel: string, body: unknown, options: { timeoutMs: number; signal: AbortSignal }): Promise<unknown>;
}

export interface CourierOptions {
  repository: MessagesRepository;
  delivery: Delivery;
  bus: Bus;
  log: Log;
  random: () => number;
  /** How long an answer is waited for. */
  answerMs: number;
}

const FIRST_PAUSE_MS = 250;
const MAX_PAUSE_MS = 60_000;
/** One more than a node may have hooks for: what it has none for ends at once. */
const MAX_LOOKS = 2 * MAX_NODE_CHANNELS;

/** Waits until there is something to carry: most nodes are never sent a message, and there are many.
 *  @returns what is to be called once, when the connection has ended */
export const attendQueue = (connection: NodeConnection, options: CourierOptions): (() => void) => {
  const { uid } = connection;
  let over = false;
  let end: (() => void) | null = null;
  const begin = (): void => {
    if (!over) end ??= courier(connection, options);
  };
  const subscription = options.bus.subscribe(queueTopic(uid), begin);
  options.repository.channelsOf(uid, 1).then(
    (channels) => channels.length > 0 && begin(),
    begin, // the database is away: it tries until it knows
  );
  return () => {
    over = true;
    subscription[Symbol.dispose]();
    end?.();
  };
};

const courier = (
  connection: NodeConnection,
  { repository, delivery, bus, log, random, answerMs }: CourierOptions,
): (() => void) => {
  const { uid } = connection;
  const over = new AbortController();
  const { signal } = over;
  /** By channel: what goes on there, or the pause before the next try. */
  const lanes = new Set<string>();
  const spokenOn = new Set<string>();
  let looking = false;
  let again = false;

  /** Whether the node listens there. One that did not say is tried, on so many channels as its session takes. */
  const listens = (channel: string): boolean => {
    if (connection.channels) return connection.channels.includes(channel);
    if (spokenOn.size >= MAX_NODE_CHANNELS && !spokenOn.has(channel)) return false;
    spokenOn.add(channel);
    return true;
  };
  const ask = async (channel: string, body: unknown): Promise<{ result: unknown } | { error: AegisError } | null> => {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(noAnswer()), answerMs);
    try {
      // The session's own limit is never met: what ends the waiting is told apart from what the node says.
      const given = { timeoutMs: 2 * answerMs, signal: AbortSignal.any([signal, late.signal]) };
      return { result: await connection.request(channel, body, given) };
    } catch (error) {
      const unanswered = signal.aborted || late.signal.aborted || !(error instanceof AegisError);
      return unanswered ? null : { error };
    } finally {
      clearTimeout(timer);
    }
  };
  /** @returns how long to pause before the next; null when the channel is empty */
  const carryOne = async (channel: string, failures: number): Promise<{ pauseMs: number } | null> => {
    const head = await repository.headOf(uid, channel);
    if (!head) return null;
    if (!listens(channel)) {
      await delivery.finish(head, endedBy('failed', 'channel.no_handler'));
      return { pauseMs: 0 };
    }
    const row = await delivery.claim(head);
    if (!row) return { pauseMs: 0 };
    const answer = await ask(channel, row.given);
    const backoffMs = Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** failures) * (0.75 + random() / 2);
    if (!answer) return { pauseMs: backoffMs };
    const postponed = await delivery.answered(row, answer);
    return { pauseMs: postponed ? (postponed.againInMs ?? backoffMs) : 0 };
  };
  const run = async (channel: string): Promise<void> => {
    for (let failures = 0; !signal.aborted; ) {
      let pauseMs: number;
      try {
        const carried = await carryOne(channel, failures);
        if (!carried) return;
        pauseMs = carried.pauseMs;
      } catch (err) {
        if (signal.aborted) return;
        log.warn({ err, uid, channel }, 'a message could not be carried to its node, trying again');
        pauseMs = FIRST_PAUSE_MS;
      }
      failures = pauseMs > 0 ? failures + 1 : 0;
      if (pauseMs > 0) await pause(Math.min(pauseMs, MAX_PAUSE_MS), signal);
    }
  };
  const look = async (): Promise<void> => {
    if (looking) {
      again = true;
      return;
    }
    looking = true;
    try {
      do {
        again = false;
        for (const channel of await repository.channelsOf(uid, MAX_LOOKS)) {
          if (lanes.has(channel) || signal.aborted) continue;
          lanes.add(channel);
          void run(channel).finally(() => {
            lanes.delete(channel);
            wake(); // something may have come while it saw none, and channels beyond the looks
          });
        }
      } while (again && !signal.aborted);
    } finally {
      looking = false;
    }
  };
  const wake = (): void => {
    if (signal.aborted) return;
    look().catch((err: unknown) => {
      if (signal.aborted) return;
      log.warn({ err, uid }, 'the message queue of a node cannot be read now, trying again');
      void pause(FIRST_PAUSE_MS, signal).then(wake);
    });
  };
  const subscription = bus.subscribe(queueTopic(uid), wake);
  wake();
  return () => {
    over.abort(noAnswer());
    subscription[Symbol.dispose]();
  };
};

const noAnswer = () => new AegisError('messages.no_answer', 'The node did not answer in time.');

const pause = (ms: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    timer.unref();
    signal.addEventListener('abort', done, { once: true });
  });
