import { sql } from 'kysely';
import type { Storage, Tx } from '../../tables.ts';
import { GOOD_STATES } from '../runs-repository.ts';
import type { RemovalRow } from '../tables.ts';
import { type History, isDamaged } from './decide.ts';

/** The SQL of removals. */

const HISTORY = [
  'id',
  'node_uid',
  'node_name',
  'destination_id',
  'state',
  'started_at',
  'deadline_at',
  'locked_until',
  'verified',
  'tags',
] as const;
const AT_ONCE = 500;

export const removalsRepository = ({ read, write }: Storage) => ({
  /** Nodes that have runs under a configuration whose objects are there; null for the server's own files. */
  nodesOf: async (configId: string): Promise<(string | null)[]> =>
    (
      await read
        .selectFrom('backups_runs')
        .select('node_uid')
        .distinct()
        .where('config_id', '=', configId)
        .where('removed_at', 'is', null)
        .orderBy('node_uid')
        .execute()
    ).map(({ node_uid }) => node_uid),
  history: (configId: string, nodeUid: string | null): Promise<History[]> =>
    read
      .selectFrom('backups_runs')
      .select(HISTORY)
      .where('config_id', '=', configId)
      .where('node_uid', nodeUid === null ? 'is' : '=', nodeUid)
      .where('removed_at', 'is', null)
      .orderBy('started_at', 'desc')
      .orderBy('id', 'desc')
      .execute(),
  /** Whether there is one to fall back on, as the transaction sees it: good, and not found damaged. */
  hasSound: async (tx: Tx, configId: string, nodeUid: string | null): Promise<boolean> => {
    const good = tx
      .selectFrom('backups_runs')
      .select('verified')
      .where('config_id', '=', configId)
      .where('node_uid', nodeUid === null ? 'is' : '=', nodeUid)
      .where('state', 'in', GOOD_STATES)
      .where('removed_at', 'is', null);
    if ((await good.where('verified', 'is', null).limit(1).execute()).length > 0) return true;
    return (await good.where('verified', 'is not', null).execute()).some((run) => !isDamaged(run));
  },
  add: async (tx: Tx, rows: readonly RemovalRow[]): Promise<void> => {
    for (let at = 0; at < rows.length; at += AT_ONCE)
      await tx
        .insertInto('backups_removals')
        .values(rows.slice(at, at + AT_ONCE))
        .onConflict((conflict) => conflict.doNothing())
        .execute();
  },
  /** Of those that the server does, the longest due first. */
  due: (now: number, limit: number): Promise<RemovalRow[]> =>
    read
      .selectFrom('backups_removals')
      .selectAll()
      .where('done_at', 'is', null)
      .where('remover', '<>', 'node')
      .where('next_at', '<=', now)
      .orderBy('next_at')
      .orderBy('run_id')
      .limit(limit)
      .execute(),
  update: (runId: string, change: Partial<Omit<RemovalRow, 'run_id'>>): Promise<void> =>
    write('backups.removal', async (tx) => {
      await tx.updateTable('backups_removals').set(change).where('run_id', '=', runId).execute();
    }),
  remove: async (tx: Tx, runId: string): Promise<void> => {
    await tx.deleteFrom('backups_removals').where('run_id', '=', runId).execute();
  },
  /** Those of the runs that are, and have not been put back. */
  removedOf: async (ids: readonly string[]): Promise<Set<string>> => {
    const found = new Set<string>();
    for (let at = 0; at < ids.length; at += AT_ONCE)
      for (const { id } of await read
        .selectFrom('backups_runs')
        .select('id')
        .where('id', 'in', ids.slice(at, at + AT_ONCE))
        .where('removed_at', 'is not', null)
        .execute())
        found.add(id);
    return found;
  },
  /** What a node is to remove: what it was not told yet, and what it was told in the answer that it asks for again. */
  tell: (
    nodeUid: string,
    inRun: string,
    now: number,
    limit: number,
  ): Promise<{ config_id: string; run_id: string }[]> =>
    write('backups.forget-told', async (tx) => {
      const rows = await tx
        .selectFrom('backups_removals as removal')
        .innerJoin('backups_runs as run', 'run.id', 'removal.run_id')
        .select(['run.config_id', 'removal.run_id', 'removal.told_in'])
        .where('removal.node_uid', '=', nodeUid)
        .where('removal.remover', '=', 'node')
        .where((where) => where.or([where('told_in', 'is', null), where('told_in', '=', inRun)]))
        .orderBy(sql`told_in is null`)
        .orderBy('removal.run_id')
        .limit(limit)
        .execute();
      const fresh = rows.filter(({ told_in }) => told_in === null).map(({ run_id }) => run_id);
      if (fresh.length > 0)
        await tx
          .updateTable('backups_removals')
          .set({ told_in: inRun, done_at: now })
          .where('run_id', 'in', fresh)
          .execute();
      return rows.map(({ config_id, run_id }) => ({ config_id, run_id }));
    }),
  write,
});
export type RemovalsRepository = ReturnType<typeof removalsRepository>;
