import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';

const EVERY_MS = 3_600_000;

/** Removes blobs that no artifact names; the first turn is the start's own. */
export const blobSweepLoop = (sweep: () => Promise<number>, signal: AbortSignal, log: Log): void =>
  loop({
    name: 'artifacts.sweep',
    everyMs: EVERY_MS,
    turn: async () => {
      const removed = await sweep();
      if (removed > 0) log.info({ removed }, 'blobs that no artifact names were removed');
    },
    signal,
    log,
  });
