/** Wakes everything that is subscribed, for wake-ups that may have been missed: at once when asked, and by itself every while. Spread
 *  over time, since each that is woken asks the database. */

const TOPICS_AT_ONCE = 50;
const BETWEEN_MS = 50; // 1000 a second

export interface MissedSweep {
  /** From the beginning, if one is under way. */
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
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  const again = (work: () => void, ms: number): void => {
    clearTimeout(timer);
    timer = setTimeout(work, ms);
    timer.unref();
  };
  const begin = (): void => {
    left = on.names();
    step();
  };
  const step = (): void => {
    if (stopped) return;
    const some = left.slice(0, TOPICS_AT_ONCE);
    left = left.slice(TOPICS_AT_ONCE);
    for (const name of some) on.wake(name);
    if (left.length > 0) again(step, BETWEEN_MS);
    else again(begin, on.everyMs());
  };
  again(begin, 0);
  return {
    now: () => {
      if (!stopped) again(begin, 0);
    },
    stop: () => {
      stopped = true;
      clearTimeout(timer);
    },
  };
};
