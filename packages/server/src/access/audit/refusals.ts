import type { Clock } from '../../platform/clock.ts';
import type { NewEntry } from './repository.ts';

/** Refusals of credentials and roles, bounded. The first one of an address (with a good credential: of that caller) is written at once;
 *  those that follow within a minute are counted, and one entry tells their number when the minute is over: at most two entries per
 *  address and minute. No more than 1,024 addresses are told apart at a time; those beyond share one, '*'. */

const MINUTE_MS = 60_000;
const MAX_KEYS = 1024;

interface Window {
  since: number;
  last: NewEntry;
  more: number;
}

export const refusalCounter = (clock: Clock, append: (entry: NewEntry) => void) => {
  const windows = new Map<string, Window>();
  const close = (key: string, { last, more }: Window): void => {
    windows.delete(key);
    if (more > 0) append({ ...last, count: more, targets: [] });
  };
  return {
    take: (refusal: NewEntry): void => {
      const own = `${refusal.actor_id ?? ''} ${refusal.address ?? ''}`;
      const shared = !windows.has(own) && windows.size >= MAX_KEYS;
      const key = shared ? '*' : own;
      const entry = shared ? { ...refusal, address: '*', actor_id: null, actor_name: null, key_id: null } : refusal;
      const known = windows.get(key);
      if (known && Math.abs(clock.now() - known.since) < MINUTE_MS) {
        known.more += 1;
        known.last = entry;
        return;
      }
      if (known) close(key, known);
      windows.set(key, { since: clock.now(), last: entry, more: 0 });
      append(entry);
    },
    /** Writes what was counted in minutes that are over, or all of it. */
    flush: (all: boolean): void => {
      for (const [key, window] of windows)
        if (all || Math.abs(clock.now() - window.since) >= MINUTE_MS) close(key, window);
    },
  };
};
