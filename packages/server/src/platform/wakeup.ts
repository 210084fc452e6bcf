/** Lets one waiter sleep until somebody wakes it, it times out, or it is woken already: a wake-up between two waits is kept, so
 *  none is lost between looking at the database and going to sleep. */
export interface Wakeup {
  wake(): void;
  /** @param ms at most so long; null: until woken */
  wait(ms: number | null): Promise<void>;
}

const MAX_TIMER_MS = 2 ** 31 - 1;

export const wakeup = (): Wakeup => {
  let woken = false;
  let release: (() => void) | null = null;
  return {
    wake: () => {
      woken = true;
      release?.();
    },
    wait: (ms) =>
      new Promise((resolve) => {
        if (woken || (ms !== null && ms <= 0)) {
          woken = false;
          resolve();
          return;
        }
        const timer = ms === null ? undefined : setTimeout(() => release?.(), Math.min(ms, MAX_TIMER_MS));
        release = () => {
          clearTimeout(timer);
          release = null;
          woken = false;
          resolve();
        };
      }),
  };
};
