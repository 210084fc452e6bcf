import { randomBytes } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import { type Bus, localTopics } from './bus.ts';
import { missedSweep } from './bus-sweep.ts';
import type { Log } from './log.ts';

/** The bus of several server processes on one database. A publication wakes this process's own waiters at once and travels to the others
 *  over a link (PostgreSQL's notifications, or Redis), many topics in one message. Nothing depends on its arrival: after each break of
 *  the link everything that is subscribed is woken, slowly also while it is broken and now and then while it holds. */

export interface Link {
  /** Resolves when they are handed over; what is refused is sent again over the next link. */
  send(messages: readonly string[]): Promise<void>;
  /** Never rejects, never hangs. */
  close(): Promise<void>;
}
export interface LinkEvents {
  /** Of this process's own messages too: that they come back shows that the link works. */
  heard(message: string): void;
  /** Once or more; the link is closed then, and another opened. */
  lost(why: unknown): void;
}
/** Resolves once messages of others are heard. */
export type OpenLink = (events: LinkEvents) => Promise<Link>;

export interface SharedBusTimes {
  /** Between two sendings: what is published meanwhile travels together. */
  pauseMs: number;
  /** After so long without a message the link is tried; after twice as long more it counts as lost. */
  beatMs: number;
  /** Between two rounds of waking everything, with and without a link. */
  sweepMs: number;
  brokenSweepMs: number;
  /** The longest pause between two tries to open a link. */
  retryMs: number;
}
export const SHARED_BUS_TIMES: SharedBusTimes = {
  pauseMs: 5,
  beatMs: 5000,
  sweepMs: 60_000,
  brokenSweepMs: 2000,
  retryMs: 5000,
};

export interface SharedBus extends Bus, AsyncDisposable {
  /** Resolves after the first try to open a link, however it went. */
  readonly ready: Promise<void>;
  /** Whether there is a link at the moment. */
  linked(): boolean;
}

/** PostgreSQL takes less than 8000 bytes. */
const MESSAGE_BYTES = 7900;
const TOPIC_BYTES = 500;
/** What is longer is none of ours. */
const HEARD_CHARS = 2 * MESSAGE_BYTES;
/** More of them that wait for a link become one message: that everything may have changed. */
const MOST_TOPICS = 20_000;
const TOPICS_AT_ONCE = 4000;
const EVERYTHING = '*';
const FIRST_RETRY_MS = 100;
const CLOSE_MS = 1000;

export const sharedBus = (on: {
  openLink: OpenLink;
  random: () => number;
  log: Log;
  times?: SharedBusTimes;
}): SharedBus => {
  const { log, times = SHARED_BUS_TIMES } = on;
  const self = randomBytes(8).toString('hex');
  const topics = localTopics();
  const remote = new Map<string, ((rest: string | null) => void)[]>();
  const closing = new AbortController();
  let outbox = new Set<string>();
  let link: Link | null = null;
  let breakLink: (why: unknown) => void = () => undefined;
  let heardAt = 0;
  let sending: Promise<void> | null = null;

  const mayHaveMissed = (): void => {
    for (const listeners of remote.values()) for (const listener of listeners) listener(null);
    sweep.now();
  };
  const heardTopic = (topic: string): void => {
    if (topic === EVERYTHING) {
      mayHaveMissed();
      return;
    }
    const colon = topic.indexOf(':');
    for (const listener of remote.get(topic.slice(0, colon)) ?? []) listener(topic.slice(colon + 1));
    topics.deliver(topic);
  };
  const heard = (message: string): void => {
    heardAt = performance.now();
    if (message.length > HEARD_CHARS) return;
    const [sender, ...names] = message.split('\n');
    if (sender !== self) for (const name of new Set(names)) heardTopic(name);
  };

  const add = (topic: string): void => {
    if (outbox.has(EVERYTHING)) return;
    if (outbox.size >= MOST_TOPICS || Buffer.byteLength(topic) > TOPIC_BYTES) outbox = new Set([EVERYTHING]);
    else outbox.add(topic);
  };
  const sendAll = async (): Promise<void> => {
    while (link && outbox.size > 0) {
      await turn(); // what else is published in this turn of the event loop goes along
      const batch = [...outbox].slice(0, TOPICS_AT_ONCE);
      for (const topic of batch) outbox.delete(topic);
      try {
        await link.send(messagesOf(self, batch));
      } catch (error) {
        for (const topic of batch) add(topic);
        breakLink(error);
        return;
      }
      await pause(times.pauseMs, closing.signal);
    }
  };
  const send = (): void => {
    sending ??= sendAll().finally(() => {
      sending = null;
      if (link && outbox.size > 0) send();
    });
  };

  const sweep = missedSweep({
    names: topics.names,
    wake: topics.deliver,
    everyMs: () => (link ? times.sweepMs : times.brokenSweepMs),
  });

  /** Sees that messages still come, by one of our own when there is no other. */
  const watch = (opened: Link, lost: (why: unknown) => void): NodeJS.Timeout => {
    const timer = setInterval(() => {
      const silentMs = performance.now() - heardAt;
      if (silentMs > 3 * times.beatMs) lost(new Error(`nothing was heard for ${Math.round(silentMs)} ms`));
      else if (silentMs >= times.beatMs) opened.send([self]).catch(lost);
    }, times.beatMs);
    timer.unref();
    return timer;
  };
  /** Resolves with the reason when the link is lost. */
  const useLink = async (tried: () => void): Promise<unknown> => {
    const lost = Promise.withResolvers<unknown>();
    const end = () => lost.resolve(null);
    closing.signal.addEventListener('abort', end, { once: true });
    let opened: Link | null = null;
    let timer: NodeJS.Timeout | undefined;
    try {
      opened = await on.openLink({ heard, lost: lost.resolve });
      heardAt = performance.now();
      breakLink = lost.resolve;
      link = opened;
      timer = watch(opened, lost.resolve);
      mayHaveMissed();
      send();
      tried();
      return await lost.promise;
    } catch (error) {
      return error;
    } finally {
      clearInterval(timer);
      closing.signal.removeEventListener('abort', end);
      link = null;
      await opened?.close();
    }
  };
  const keepLinked = async (tried: () => void): Promise<void> => {
    let tries = 0;
    while (!closing.signal.aborted) {
      const began = performance.now();
      const why = await useLink(() => {
        if (tries > 0) log.info('the bus to the other server processes works again');
        tried();
      });
      if (closing.signal.aborted) return;
      sweep.now();
      tried();
      if (performance.now() - began > times.retryMs) tries = 0;
      if (tries === 0)
        log.warn(
          { why: why instanceof Error ? why.message.slice(0, 300) : 'it was closed' },
          'the bus to the other server processes broke: they are heard of later until it works again',
        );
      const most = Math.min(times.retryMs, FIRST_RETRY_MS * 2 ** Math.min(tries, 20));
      tries++;
      await pause(on.random() * most, closing.signal);
    }
  };

  const first = Promise.withResolvers<void>();
  const running = keepLinked(first.resolve);
  let closed: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    // What a stopping server published last still goes, when that takes no longer.
    if (sending) await Promise.race([sending, pause(CLOSE_MS, closing.signal)]);
    closing.abort();
    sweep.stop();
    await running;
  };

  return {
    ready: first.promise,
    linked: () => link !== null,
    publish: (topic) => {
      topics.deliver(topic);
      add(topic);
      if (link) send();
    },
    subscribe: topics.subscribe,
    onRemote: (kind, listener) => {
      remote.set(kind, [...(remote.get(kind) ?? []), listener]);
    },
    size: topics.size,
    [Symbol.asyncDispose]: () => {
      closed ??= close();
      return closed;
    },
  };
};

/** The sender, then its topics, a line each. */
export const messagesOf = (sender: string, topics: readonly string[]): string[] => {
  const messages: string[] = [];
  let lines = [sender];
  let bytes = sender.length;
  for (const topic of topics) {
    const more = Buffer.byteLength(topic) + 1;
    if (bytes + more > MESSAGE_BYTES && lines.length > 1) {
      messages.push(lines.join('\n'));
      lines = [sender];
      bytes = sender.length;
    }
    lines.push(topic);
    bytes += more;
  }
  return [...messages, lines.join('\n')];
};

/** Ends early, and does not keep the process. */
const pause = (ms: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    timer.unref();
    signal.addEventListener('abort', end, { once: true });
  });
