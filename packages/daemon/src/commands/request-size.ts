import type { Clock } from '../platform/clock.ts';

/** How much one request may carry so that it gets through before it counts as lost: on a way of a kibibyte a second a mebibyte never does,
 *  however often it is sent again. It grows while large requests are answered soon, and shrinks when they are answered late or not at all. */
export interface RequestSize {
  bytes(): number;
  /** Runs `send`, which carries so many bytes, and learns from how long it takes. */
  learn<T>(carried: number, send: () => Promise<T>): Promise<T>;
}

const FIRST_BYTES = 64 * 1024;
const LEAST_BYTES = 4 * 1024;
const MOST_BYTES = 4 * 1024 * 1024;
const SOON_MS = 1000;
const LATE_MS = 10_000;
/** What fails sooner failed for another reason: nobody was there. */
const TRIED_MS = 250;

export const requestSize = (clock: Pick<Clock, 'monotonic'>): RequestSize => {
  let bytes = FIRST_BYTES;
  const shrink = (carried: number, by: number): void => {
    bytes = Math.max(LEAST_BYTES, Math.floor(Math.min(bytes, carried) / by));
  };
  return {
    bytes: () => bytes,
    learn: async (carried, send) => {
      const begunAt = clock.monotonic();
      try {
        const result = await send();
        const tookMs = clock.monotonic() - begunAt;
        if (tookMs > LATE_MS) shrink(carried, 2);
        else if (tookMs < SOON_MS && carried >= bytes / 2) bytes = Math.min(MOST_BYTES, bytes * 2);
        return result;
      } catch (error) {
        if (clock.monotonic() - begunAt > TRIED_MS) shrink(carried, 4);
        throw error;
      }
    },
  };
};
