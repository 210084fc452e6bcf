import { pause } from '../platform/clock.ts';
import type { Backoff } from '../platform/http/backoff.ts';

/** What bounds output on its way: at most `budgetBytes` of buffers at once over all executions, first come first served, and one
 *  backoff for all, because one server that is away is away for everybody. */
export interface UploadLane {
  /** Waits for room, then runs `work` with a buffer of at least `bytes` that is its own until it settles. */
  withBuffer<T>(bytes: number, work: (buffer: Buffer) => Promise<T>): Promise<T>;
  succeeded(): void;
  /** Resolves when another attempt may be made. */
  failed(retryAfterMs: number): Promise<void>;
}

const SMALL_BYTES = 64 * 1024;
const TRIM_MS = 2000;

export const uploadLane = ({
  budgetBytes,
  blockBytes,
  backoff,
  signal,
}: {
  budgetBytes: number;
  /** Buffers of this size are kept for reuse; smaller needs get small ones. */
  blockBytes: number;
  backoff: Backoff;
  signal: AbortSignal;
}): UploadLane => {
  const idle: Buffer[] = [];
  const waiting: (() => void)[] = [];
  let used = 0;
  let resting: Promise<void> | null = null;

  let trimTimer: NodeJS.Timeout | null = null;
  /** A daemon that has been quiet for a while holds no megabytes. */
  const trimLater = (): void => {
    if (trimTimer) clearTimeout(trimTimer);
    trimTimer = setTimeout(() => {
      idle.length = 0;
    }, TRIM_MS).unref();
  };

  return {
    withBuffer: async (bytes, work) => {
      const large = bytes > SMALL_BYTES;
      const weight = large ? blockBytes : SMALL_BYTES;
      while (used + weight > budgetBytes) await new Promise<void>((resolve) => waiting.push(resolve));
      used += weight;
      const buffer = large ? (idle.pop() ?? Buffer.allocUnsafeSlow(blockBytes)) : Buffer.allocUnsafe(bytes);
      try {
        const result = await work(buffer);
        // Not after a failure: the socket may still hold it.
        if (large && idle.length < 2) {
          idle.push(buffer);
          trimLater();
        }
        return result;
      } finally {
        used -= weight;
        for (const resolve of waiting.splice(0)) resolve();
      }
    },
    succeeded: () => backoff.reset(),
    failed: (retryAfterMs) => {
      resting ??= pause(backoff.next(retryAfterMs), signal).finally(() => {
        resting = null;
      });
      return resting;
    },
  };
};
