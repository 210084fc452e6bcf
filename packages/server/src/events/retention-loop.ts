import type { Clock } from '../platform/clock.ts';
import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';
import type { EventsRepository } from './repository.ts';

/** Events are removed when they are old, and the oldest when there are too many. Counted by marks that each turn leaves: exact to what came
 *  between two turns, and no turn counts what an earlier one has. */

export interface EventRetention {
  /** Kept at most, about. */
  most: number;
  maxAgeMs: number;
}

const EVERY_MS = 10_000;
/** A transaction that removes more would make others wait. */
const REMOVED_AT_ONCE = 2000;

export const eventRetention = (on: { repository: EventsRepository; keep: EventRetention; clock: Clock }) => ({
  turn: async (): Promise<void> => {
    const now = on.clock.now();
    const cut = await on.repository.mark(now, now - on.keep.maxAgeMs, on.keep.most);
    if (cut !== null) while (!(await on.repository.remove(cut, REMOVED_AT_ONCE)));
  },
});
export type EventRetentionTurn = ReturnType<typeof eventRetention>;

export const eventRetentionLoop = ({ turn }: EventRetentionTurn, signal: AbortSignal, log: Log): void =>
  loop({ name: 'events.retention', everyMs: EVERY_MS, turn, signal, log });
