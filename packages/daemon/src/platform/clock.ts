/** Time as a parameter. Wall time may jump; `monotonic` never goes back and stands for durations. Both in milliseconds. */
export interface Clock {
  now(): number;
  monotonic(): number;
}

export const systemClock: Clock = { now: () => Date.now(), monotonic: () => performance.now() };

export const isoTime = (ms: number): string => new Date(ms).toISOString();

/** The longest that a timer takes; beyond it Node.js fires at once. */
const LONGEST_MS = 2 ** 31 - 1;

/** Resolves after `ms`, or at once when the signal aborts. Never rejects. */
export const pause = (ms: number, signal?: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, Math.min(ms, LONGEST_MS));
    signal?.addEventListener('abort', done, { once: true });
  });
