/** Wakes everything that is subscribed, for wake-ups that may have been missed: at once when asked, and by itself every while. Spread
 *  over time, since each that is woken asks the database. */

const TOPICS_AT_ONCE = 50;
const BETWEEN_MS = 50; // 1000 a second

export interface MissedSweep {
  /** Another round after the one that may be under way. */
  now(): void;
  stop(): void;
}

export const missedSweep = (on: {
  names: () => string[];
  wake: (name: string) => void;
  /** From the end of a round to the beginning of the next. */
  everyMs: () => number;
}): MissedSweep => {
  let left: string[] = [];
  let asked = false;
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  let steppedAt = Number.NEGATIVE_INFINITY;
  const again = (work: () => void, ms: number): void => {
    clearTimeout(timer);
    timer = setTimeout(work, ms);
    timer.unref();
  };
  const begin = (): void => {
    asked = false;
    left = on.names();
    step();
  };
  const step = (): void => {
    if (stopped) return;
    const some = left.slice(0, TOPICS_AT_ONCE);
    left = left.slice(TOPICS_AT_ONCE);
    for (const name of some) on.wake(name);
    if (left.length > 0) again(step, BETWEEN_MS);
    else if (asked) again(begin, BETWEEN_MS);
    else again(begin, on.everyMs());
    steppedAt = performance.now();
  };
  again(begin, 0);
  return {
    now: () => {
      if (stopped || asked) return;
      asked = true;
      // However often it is asked for, no more is woken at a time.
      if (left.length === 0) again(begin, Math.max(0, steppedAt + BETWEEN_MS - performance.now()));
    },
    stop: () => {
      stopped = true;
      clearTimeout(timer);
    },
  };
};
