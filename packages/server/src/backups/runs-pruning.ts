import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../platform/clock.ts';
import type { Tx } from '../tables.ts';
import type { LogService } from './log.ts';
import type { ConfigRow } from './tables.ts';

/** The records of runs are bounded: for each node under each configuration the oldest give way whose objects are gone, or that never had
 *  any to restore. A record of what can be restored never goes. */

/** What a failed run left half-way has been swept by then. */
const FAILED_KEPT_MS = 7 * 24 * 3_600_000;
const AT_ONCE = 100;

export const runsPruning = (on: { log: LogService; clock: Clock; maxPerNode: number }) => {
  return {
    /** For one more. @throws AegisError backups.limit */
    makeRoom: async (tx: Tx, config: Pick<ConfigRow, 'id' | 'name'>, nodeUid: string | null): Promise<void> => {
      const ofBoth = () =>
        tx
          .selectFrom('backups_runs')
          .where('config_id', '=', config.id)
          .where('node_uid', nodeUid === null ? 'is' : '=', nodeUid);
      const { count } = await ofBoth()
        .select(({ fn }) => fn.countAll<number>().as('count'))
        .executeTakeFirstOrThrow();
      const surplus = Number(count) + 1 - on.maxPerNode;
      if (surplus <= 0) return;
      const old = on.clock.now() - FAILED_KEPT_MS;
      const gone = await ofBoth()
        .select('id')
        .where((where) => {
          const onItsWay = where
            .selectFrom('backups_removals')
            .select('run_id')
            .whereRef('run_id', '=', 'backups_runs.id')
            .where('done_at', 'is', null);
          return where.or([
            where.and([where('removed_at', 'is not', null), where.not(where.exists(onItsWay))]),
            where.and([
              where('state', 'in', ['failed', 'cancelled', 'lost']),
              where('heard_at', '<', old),
              // A node hears of a removal with the end of a run, which must be able to begin.
              where.not(where.exists(onItsWay.where('remover', '<>', 'node'))),
            ]),
          ]);
        })
        .orderBy('started_at')
        .limit(Math.max(surplus, AT_ONCE))
        .execute();
      if (gone.length < surplus)
        throw new AegisError(
          'backups.limit',
          `'${config.name}' has ${count} runs of this node, as many as are kept (backups.max_runs_per_node). Give it a retention, apply it ('aegis backups forget ${config.name}'), or raise that setting.`,
        );
      const ids = gone.slice(0, surplus).map(({ id }) => id);
      await on.log.forgetRuns(tx, ids);
      for (const table of ['backups_uploads', 'backups_grants', 'backups_removals'] as const)
        await tx.deleteFrom(table).where('run_id', 'in', ids).execute();
      await tx.deleteFrom('backups_runs').where('id', 'in', ids).execute();
    },
  };
};
export type RunsPruning = ReturnType<typeof runsPruning>;
