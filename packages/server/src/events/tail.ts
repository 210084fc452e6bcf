import { setTimeout as delay } from 'node:timers/promises';
import type { Bus } from '../platform/bus.ts';
import type { Log } from '../platform/log.ts';
import type { EventsRepository } from './repository.ts';
import type { EventRow } from './tables.ts';

/** The newest events, read once for all who listen at this process, and only while somebody does. */

/** Topics: there may be more events. */
export const EVENTS_TOPIC = 'events:new';

const PAGE = 1000;
/** Kept for readers who are a little behind; who is more so reads the database. */
const KEPT = 4096;
const KEPT_CHARS = 8 * 1024 * 1024;
/** Between two looks: what comes meanwhile is read together. */
const PAUSE_MS = 10;
/** A look when nobody has said that there is something: a wake-up between server processes may be lost. */
const LOOK_MS = 1000;
/** While somebody writes. */
const PENDING_MS = 25;

export interface Tail {
  /** Everything up to it has been read here. */
  position(): number;
  /** What follows `after`, or null where that is not in memory any more. */
  since(after: number): readonly EventRow[] | null;
  /** Resolves once all that was committed before the call has been read. @throws AegisError http.unavailable */
  refresh(): Promise<void>;
  /** Calls `listener` whenever there is more, until disposed; meanwhile the tail is kept up to date. */
  follow(listener: () => void): Disposable;
}

export const eventsTail = (on: { repository: EventsRepository; bus: Bus; log: Log }): Tail => {
  const { repository } = on;
  const listeners = new Set<() => void>();
  let kept: EventRow[] = [];
  let chars = 0;
  /** What is in memory begins after it. */
  let keptFrom = 0;
  let position: number | null = null;
  let generation = 0;
  let reading: Promise<void> = Promise.resolve();
  let next: Promise<void> | null = null;
  let readAt = Number.NEGATIVE_INFINITY;
  let timer: NodeJS.Timeout | undefined;
  let subscription: Disposable | null = null;

  const keep = (rows: readonly EventRow[]): void => {
    for (const row of rows) {
      kept.push(row);
      chars += row.data.length;
    }
    position = rows.at(-1)?.id ?? position;
    if (kept.length <= KEPT && chars <= KEPT_CHARS) return;
    let drop = Math.max(0, kept.length - KEPT / 2);
    let left = kept.slice(drop).reduce((sum, { data }) => sum + data.length, 0);
    while (left > KEPT_CHARS / 2 && drop < kept.length) left -= kept[drop++]?.data.length ?? 0;
    keptFrom = kept[drop - 1]?.id ?? keptFrom;
    kept = kept.slice(drop);
    chars = left;
  };
  const read = async (): Promise<void> => {
    if (listeners.size === 0) return; // nobody would keep up to date what it finds
    const mine = generation;
    let after = position;
    if (after === null) {
      after = await repository.newest();
      if (mine !== generation) return;
      position = after;
      keptFrom = after;
    }
    for (;;) {
      const { rows, pending } = await repository.news(after, PAGE);
      if (mine !== generation) return; // everybody left meanwhile
      keep(rows);
      after = position ?? after;
      if (rows.length > 0) for (const listener of [...listeners]) listener();
      if (rows.length < PAGE) return lookIn(pending ? PENDING_MS : LOOK_MS);
    }
  };
  /** Whoever asks while one is under way gets the next: what it asks for may have been committed too late for this one. */
  const refresh = (): Promise<void> => {
    next ??= reading
      .catch(() => undefined) // whoever asked for that one has been told
      .then(() => delay(Math.max(0, readAt + PAUSE_MS - performance.now())))
      .then(() => {
        next = null;
        reading = read().finally(() => {
          readAt = performance.now();
        });
        return reading;
      });
    return next;
  };
  const look = (): void => {
    refresh().catch((err: unknown) => {
      on.log.warn({ err }, 'events are not read; the next look tries again');
      lookIn(LOOK_MS);
    });
  };
  const lookIn = (ms: number): void => {
    clearTimeout(timer);
    if (listeners.size === 0) return;
    timer = setTimeout(look, ms);
    timer.unref();
  };
  const stop = (): void => {
    clearTimeout(timer);
    subscription?.[Symbol.dispose]();
    subscription = null;
    kept = [];
    chars = 0;
    position = null;
    generation++;
  };

  return {
    position: () => position ?? 0,
    since: (after) => {
      if (position === null || after < keptFrom) return null;
      if (after >= position) return [];
      return kept.slice(firstAfter(kept, after));
    },
    refresh,
    follow: (listener) => {
      listeners.add(listener);
      subscription ??= on.bus.subscribe(EVENTS_TOPIC, look);
      return {
        [Symbol.dispose]: () => {
          listeners.delete(listener);
          if (listeners.size === 0) stop();
        },
      };
    },
  };
};

const firstAfter = (rows: readonly EventRow[], after: number): number => {
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((rows[middle]?.id ?? 0) > after) high = middle;
    else low = middle + 1;
  }
  return low;
};
