import { isGood, type RunState } from '@aegis/protocol/backups/run';
import type { Updateable } from 'kysely';
import type { Within } from '../platform/node-scope.ts';
import { forUpdate } from '../platform/storage/for-update.ts';
import { type ColumnType, rowsByKey } from '../platform/storage/row-statements.ts';
import { type Statement, together } from '../platform/storage/statements.ts';
import type { Storage, Tx } from '../tables.ts';
import type { BackupsTables, RunRow } from './tables.ts';

/** The SQL of runs. Whoever changes a run locks its row first (`lock`). */

export const GOOD_STATES: readonly RunState[] = (['completed', 'completed_with_errors'] as const).filter(isGood);

const COLUMNS = {
  id: 'text',
  config_id: 'text',
  config_name: 'text',
  node_uid: 'text',
  node_name: 'text',
  node_key: 'text',
  generation: 'bigint',
  cause: 'text',
  scheduled_at: 'bigint',
  state: 'text',
  attempt: 'bigint',
  started_at: 'bigint',
  attempt_started_at: 'bigint',
  heard_at: 'bigint',
  silent_since: 'bigint',
  deadline_at: 'bigint',
  finished_at: 'bigint',
  cancelled_at: 'bigint',
  cancelled_by: 'text',
  archive_bytes: 'bigint',
  uploaded_bytes: 'bigint',
  encrypted: 'bigint',
  destination_id: 'text',
  prefix: 'text',
  max_bytes: 'bigint',
  locked_until: 'bigint',
  removed_at: 'bigint',
  logged: 'bigint',
  end_sha256: 'text',
  tags: 'text',
  progress: 'text',
  totals: 'text',
  reason: 'text',
  verified: 'text',
  errors: 'text',
  statement: 'text',
} as const satisfies Record<keyof RunRow, ColumnType>;
const ALL = Object.keys(COLUMNS).join(', ');

export interface RunFilter {
  configId?: string | undefined;
  nodeUid?: string | undefined;
  state?: RunState | undefined;
  /** Those whose objects are gone too. */
  removed?: boolean | undefined;
  /** Of the server's own files there are none within any scope. */
  within: Within;
}
/** A sign of progress, of a run and attempt that `lock` and a check have found to be under way. */
export interface ProgressRow {
  id: string;
  heard_at: number;
  progress: string;
  archive_bytes: number;
  uploaded_bytes: number;
}

export const runsRepository = (storage: Storage) => {
  const { kind, read } = storage;
  const locked = rowsByKey(kind, { table: 'backups_runs', columns: Object.keys(COLUMNS), key: 'id', lock: true });
  const saveProgress = (rows: readonly ProgressRow[]): Statement =>
    kind === 'sqlite'
      ? {
          sql: `update backups_runs set heard_at = ?, progress = ?, archive_bytes = ?, uploaded_bytes = ?, silent_since = null,
                  state = 'running', finished_at = null, reason = null where id = ?`,
          runs: rows.map((row) => [row.heard_at, row.progress, row.archive_bytes, row.uploaded_bytes, row.id]),
        }
      : {
          sql: `update backups_runs set heard_at = j.heard_at, progress = j.progress, archive_bytes = j.archive_bytes,
                  uploaded_bytes = j.uploaded_bytes, silent_since = null, state = 'running', finished_at = null, reason = null
                from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::text[])
                  as j(heard_at, progress, archive_bytes, uploaded_bytes, id)
                where backups_runs.id = j.id`,
          runs: [
            [
              rows.map((row) => row.heard_at),
              rows.map((row) => row.progress),
              rows.map((row) => row.archive_bytes),
              rows.map((row) => row.uploaded_bytes),
              rows.map((row) => row.id),
            ],
          ],
        };
  /** The newest run for each pair of configuration and node. */
  const newest = (pairs: readonly (readonly [configId: string, nodeUid: string])[], only: string): Statement =>
    kind === 'sqlite'
      ? {
          sql: `select ${ALL} from backups_runs where config_id = ? and node_uid = ? ${only} order by started_at desc, id desc limit 1`,
          runs: pairs,
        }
      : {
          sql: `select r.* from unnest($1::text[], $2::text[]) as p(c, n) cross join lateral (
                  select ${ALL} from backups_runs where config_id = p.c and node_uid = p.n ${only}
                  order by started_at desc, id desc limit 1) as r`,
          runs: [[pairs.map(([config]) => config), pairs.map(([, node]) => node)]],
        };
  const newestOfConfig = (ids: readonly string[]): Statement =>
    kind === 'sqlite'
      ? {
          sql: `select ${ALL} from backups_runs where config_id = ? order by started_at desc, id desc limit 1`,
          runs: ids.map((id) => [id]),
        }
      : {
          sql: `select r.* from unnest($1::text[]) as p(c) cross join lateral (
                  select ${ALL} from backups_runs where config_id = p.c order by started_at desc, id desc limit 1) as r`,
          runs: [[ids]],
        };
  const filtered = ({ configId, nodeUid, state, removed, within }: RunFilter) => {
    let rows = read.selectFrom('backups_runs').selectAll();
    if (configId !== undefined) rows = rows.where('config_id', '=', configId);
    if (nodeUid !== undefined) rows = rows.where('node_uid', '=', nodeUid);
    if (state !== undefined) rows = rows.where('state', '=', state);
    if (within !== null) rows = rows.where(within.holds('backups_runs.node_uid'));
    if (removed !== true) rows = rows.where('removed_at', 'is', null);
    return rows;
  };

  const page = (
    filter: RunFilter,
    limit: number,
    after?: readonly [startedAt: number, id: string],
  ): Promise<RunRow[]> => {
    const rows = filtered(filter).orderBy('started_at', 'desc').orderBy('id', 'desc').limit(limit);
    return (
      after
        ? rows.where((where) => where(where.refTuple('started_at', 'id'), '<', where.tuple(after[0], after[1])))
        : rows
    ).execute();
  };

  return {
    byId: (id: string): Promise<RunRow | undefined> =>
      read.selectFrom('backups_runs').selectAll().where('id', '=', id).executeTakeFirst(),
    /** Of that node; another's is not found. */
    ofNode: (nodeUid: string, id: string): Promise<RunRow | undefined> =>
      read
        .selectFrom('backups_runs')
        .selectAll()
        .where('id', '=', id)
        .where('node_uid', '=', nodeUid)
        .executeTakeFirst(),
    lock: (tx: Tx, id: string): Promise<RunRow | undefined> =>
      forUpdate(storage, tx.selectFrom('backups_runs').selectAll().where('id', '=', id)).executeTakeFirst(),
    lockMany: async (tx: Tx, ids: readonly string[]): Promise<Map<string, RunRow>> => {
      const [rows = []] = await together(tx, [locked(ids)]);
      return new Map((rows as RunRow[]).map((row) => [row.id, row]));
    },
    /** False: the id is taken. */
    insert: async (tx: Tx, row: RunRow): Promise<boolean> => {
      const { numInsertedOrUpdatedRows } = await tx
        .insertInto('backups_runs')
        .values(row)
        .onConflict((conflict) => conflict.doNothing())
        .executeTakeFirst();
      return numInsertedOrUpdatedRows === 1n;
    },
    update: async (tx: Tx, id: string, change: Updateable<BackupsTables['backups_runs']>): Promise<void> => {
      await tx.updateTable('backups_runs').set(change).where('id', '=', id).execute();
    },
    saveProgress: async (tx: Tx, rows: readonly ProgressRow[]): Promise<void> => {
      if (rows.length > 0) await together(tx, [saveProgress(rows)]);
    },
    page,
    /** The run, when its node is within. */
    byIdWithin: (id: string, within: Within): Promise<RunRow | undefined> =>
      filtered({ removed: true, within }).where('id', '=', id).executeTakeFirst(),
    /** The newest that can be restored. */
    latestGood: (configId: string, nodeUid: string | undefined, within: Within): Promise<RunRow | undefined> =>
      filtered({ configId, nodeUid, within })
        .where('state', 'in', GOOD_STATES)
        .orderBy('started_at', 'desc')
        .orderBy('id', 'desc')
        .limit(1)
        .executeTakeFirst(),
    /** Of the node that bore this name in the newest of its runs: one that was retired is found by its runs alone. */
    nodeNamed: async (name: string, within: Within): Promise<{ uid: string; name: string } | undefined> => {
      const row = await filtered({ removed: true, within })
        .clearSelect()
        .select(['node_uid', 'node_name'])
        .where('node_name', '=', name)
        .where('node_uid', 'is not', null)
        .orderBy('started_at', 'desc')
        .limit(1)
        .executeTakeFirst();
      return row?.node_uid ? { uid: row.node_uid, name: row.node_name } : undefined;
    },
    newestOfConfigs: async (ids: readonly string[], within: Within): Promise<Map<string, RunRow>> => {
      if (within !== null) {
        const found = new Map<string, RunRow>();
        for (const configId of ids) {
          const [newestRun] = await page({ configId, removed: true, within }, 1);
          if (newestRun) found.set(configId, newestRun);
        }
        return found;
      }
      const [rows = []] = await together(read, [newestOfConfig(ids)]);
      return new Map((rows as RunRow[]).map((row) => [row.config_id, row]));
    },
    /** By node, of one configuration: the newest of all, and the newest that is good. */
    newestOfNodes: async (
      configId: string,
      uids: readonly string[],
    ): Promise<{ last: Map<string, RunRow>; good: Map<string, RunRow> }> => {
      const pairs = uids.map((uid) => [configId, uid] as const);
      const [last = [], good = []] = await together(read, [
        newest(pairs, ''),
        newest(pairs, "and state in ('completed', 'completed_with_errors') and removed_at is null"),
      ]);
      const byNode = (rows: unknown[]) => new Map((rows as RunRow[]).map((row) => [row.node_uid ?? '', row]));
      return { last: byNode(last), good: byNode(good) };
    },
    /** All that are under way. */
    underWay: (): Promise<Pick<RunRow, 'id' | 'node_uid' | 'cause' | 'heard_at' | 'silent_since'>[]> =>
      read
        .selectFrom('backups_runs')
        .select(['id', 'node_uid', 'cause', 'heard_at', 'silent_since'])
        .where('state', '=', 'running')
        .orderBy('id')
        .execute(),
    countUnderWayIn: async (tx: Tx, nodeUid: string | null): Promise<number> => {
      const { count } = await tx
        .selectFrom('backups_runs')
        .select(({ fn }) => fn.countAll<number>().as('count'))
        .where('node_uid', nodeUid === null ? 'is' : '=', nodeUid)
        .where('state', '=', 'running')
        .executeTakeFirstOrThrow();
      return count;
    },
    write: storage.write,
    writeTogether: storage.writeTogether,
  };
};
export type RunsRepository = ReturnType<typeof runsRepository>;
