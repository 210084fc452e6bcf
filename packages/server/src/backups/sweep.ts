import type { Clock } from '../platform/clock.ts';
import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';
import type { Storage } from '../tables.ts';
import type { DestinationsRepository } from './destinations-repository.ts';

/** Rows that nothing needs any more: log lines of long ago, grants that have expired, places that neither a configuration nor a run names, and deleted
 *  configurations without runs, once every node has confirmed that it dropped them and some time has passed. */

const EVERY_MS = 3_600_000;
/** Lines removed in one transaction. */
const LINES_AT_ONCE = 2000;
const DELETED_KEPT_MS = 30 * 86_400_000;

export const sweepService = (on: {
  storage: Storage;
  destinations: DestinationsRepository;
  clock: Clock;
  log: Log;
  logDays: number;
}) => {
  const { storage } = on;
  const removeOldLines = async (): Promise<void> => {
    // UUIDv7 begins with its milliseconds: older lines have smaller ones.
    const before = Math.max(0, on.clock.now() - on.logDays * 86_400_000)
      .toString(16)
      .padStart(12, '0');
    const came = `${before.slice(0, 8)}-${before.slice(8)}`;
    for (let removed = LINES_AT_ONCE; removed === LINES_AT_ONCE; )
      removed = await storage.write('backups.old-lines', async (tx) => {
        const old = await tx
          .selectFrom('backups_log')
          .select('id')
          .where('came', '<', came)
          .orderBy('came')
          .limit(LINES_AT_ONCE)
          .execute();
        const ids = old.map(({ id }) => id);
        if (ids.length > 0) await tx.deleteFrom('backups_log').where('id', 'in', ids).execute();
        return ids.length;
      });
  };
  const removeDeleted = (): Promise<number> =>
    storage.write('backups.sweep', async (tx) => {
      const now = on.clock.now();
      await tx.deleteFrom('backups_grants').where('expires_at', '<', now).execute();
      const gone = await tx
        .selectFrom('backups_configs as c')
        .select('c.id')
        .where('c.deleted_at', '<', now - DELETED_KEPT_MS)
        .where(({ not, exists, selectFrom }) =>
          not(exists(selectFrom('backups_runs as r').select('r.id').whereRef('r.config_id', '=', 'c.id'))),
        )
        .where(({ not, exists, selectFrom }) =>
          not(
            exists(
              selectFrom('backups_assignments as a')
                .select('a.node_uid')
                .whereRef('a.config_id', '=', 'c.id')
                .where('a.confirmed', '=', 0),
            ),
          ),
        )
        .limit(500)
        .execute();
      const ids = gone.map(({ id }) => id);
      if (ids.length === 0) return 0;
      await tx.deleteFrom('backups_assignments').where('config_id', 'in', ids).execute();
      await tx.deleteFrom('backups_reports').where('config_id', 'in', ids).execute();
      await tx.deleteFrom('backups_configs').where('id', 'in', ids).execute();
      return ids.length;
    });
  const turn = async (): Promise<void> => {
    await removeOldLines();
    const configs = await removeDeleted();
    const destinations = await on.destinations.removeUnused();
    if (configs + destinations > 0)
      on.log.info({ configs, destinations }, 'backup configurations and destinations that nothing names were removed');
  };
  return {
    turn,
    start: (signal: AbortSignal): void => loop({ name: 'backups.sweep', everyMs: EVERY_MS, turn, signal, log: on.log }),
  };
};
