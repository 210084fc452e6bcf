import { isGood } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../../platform/clock.ts';
import type { Log } from '../../platform/log.ts';
import type { DestinationsRepository, Place } from '../destinations-repository.ts';
import type { LogService } from '../log.ts';
import { runFolderOf } from '../run-views.ts';
import type { RunsRepository } from '../runs-repository.ts';
import type { Stores } from '../stores.ts';
import type { RemovalRow, RunRow } from '../tables.ts';
import type { RemovalsRepository } from './removals-repository.ts';

/** Removes the objects of runs, each attempt's, and the statement before all others: wherever it stops, what is left is never taken for a
 *  whole backup. It may be killed between any two requests, and then does the same again. */

const MINUTE_MS = 60_000;
/** What object lock holds is tried again then. */
const LOCKED_AGAIN_MS = 24 * 60 * MINUTE_MS;
const MOST_BACKOFF_MS = 6 * 60 * MINUTE_MS;

const isStatement = (key: string): boolean => key.endsWith('/statement.json');

/** Removes a run's folder below a folder of the server's own. */
export type RemoveOwn = (place: Place, run: RunRow) => Promise<void>;

export const objectRemoval = (on: {
  removals: RemovalsRepository;
  runs: RunsRepository;
  destinations: DestinationsRepository;
  stores: Stores;
  removeOwn: RemoveOwn;
  lines: LogService;
  clock: Clock;
  log: Log;
}) => {
  const { removals, runs, clock } = on;

  /** An earlier attempt may have gone elsewhere: the configuration was changed in between. */
  const placesOf = async (run: RunRow): Promise<Place[]> => {
    if (run.attempt > 1) return on.destinations.ofConfig(run.config_id);
    const place = await on.destinations.byId(run.destination_id);
    return place ? [place] : [];
  };
  /** The lock is longer than was known, and nothing is gone yet: the run is whole, and stays for now. */
  const putBack = async (run: RunRow, why: string): Promise<void> => {
    const now = clock.now();
    await runs.write('backups.removal-refused', async (tx) => {
      const row = await runs.lock(tx, run.id);
      if (!row) return;
      const until = Math.max(row.locked_until ?? 0, now + LOCKED_AGAIN_MS);
      const line = { at: new Date(now).toISOString(), level: 'warning' as const, message: why };
      const logged = row.logged + (await on.lines.addToRun(tx, row, [line]));
      await runs.update(tx, run.id, { removed_at: null, locked_until: until, logged });
      await removals.remove(tx, run.id);
    });
  };
  const atS3 = async (removal: RemovalRow, run: RunRow): Promise<void> => {
    let removed = 0;
    const locked: string[] = [];
    for (const place of await placesOf(run)) {
      if (place.destination.kind !== 's3') continue;
      const result = await on.stores.of(place).deleteBelow(runFolderOf(place.destination, run), isStatement);
      removed += result.removed;
      locked.push(...result.locked);
    }
    if (locked.length === 0) return removals.update(removal.run_id, { done_at: clock.now(), error: null });
    const why = `Object lock still holds ${locked.slice(0, 3).join(', ')}: the removal is tried again in a day.`;
    on.log.warn({ run_id: run.id, locked }, 'object lock refused the removal of a backup');
    const isWhole = removed === 0 && isGood(run.state) && (run.statement === null || locked.some(isStatement));
    if (isWhole && removal.tries === 0) return putBack(run, why);
    await removals.update(removal.run_id, {
      tries: removal.tries + 1,
      next_at: clock.now() + LOCKED_AGAIN_MS,
      error: why,
    });
  };
  const inOwnFolder = async (removal: RemovalRow, run: RunRow): Promise<void> => {
    for (const place of await placesOf(run)) if (place.destination.kind === 'file') await on.removeOwn(place, run);
    await removals.update(removal.run_id, { done_at: clock.now(), error: null });
  };

  /** Never throws for what one destination lacks: it is noted, and tried later. @returns whether it could be asked */
  return async (removal: RemovalRow): Promise<boolean> => {
    const run = await runs.byId(removal.run_id);
    if (!run) {
      await removals.update(removal.run_id, { done_at: clock.now() });
      return true;
    }
    try {
      await (removal.remover === 'own' ? inOwnFolder(removal, run) : atS3(removal, run));
      return true;
    } catch (error) {
      const why =
        error instanceof AegisError ? error.message : 'It failed for a reason that the log of the server tells.';
      on.log.warn({ run_id: run.id, err: error }, 'the objects of a removed backup are still there; it is tried again');
      await removals.update(removal.run_id, {
        tries: removal.tries + 1,
        next_at: clock.now() + Math.min(MOST_BACKOFF_MS, MINUTE_MS * 2 ** Math.min(removal.tries, 10)),
        error: why.slice(0, 2000),
      });
      return false;
    }
  };
};
export type ObjectRemoval = ReturnType<typeof objectRemoval>;
