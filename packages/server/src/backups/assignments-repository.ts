import { sql } from 'kysely';
import type { Within } from '../platform/node-scope.ts';
import { compiledOnce } from '../platform/storage/compiled.ts';
import { type ColumnType, rowInserts } from '../platform/storage/row-statements.ts';
import { type Executor, type Statement, together } from '../platform/storage/statements.ts';
import type { Storage, Tx } from '../tables.ts';
import type { AssignmentRow } from './tables.ts';

/** The SQL of desired state: which node carries out which configuration. Sets of rows at a time: a thousand nodes cost as many
 *  statements as one. Whoever changes rows of a configuration holds its row in backups_configs. */

const ASSIGNMENT = {
  node_uid: 'text',
  config_id: 'text',
  node_name: 'text',
  generation: 'bigint',
  present: 'bigint',
  bytes: 'bigint',
  assigned_at: 'bigint',
  assigned_by: 'text',
  directive_id: 'text',
  issued_at: 'bigint',
  confirmed: 'bigint',
} as const satisfies Record<keyof AssignmentRow, ColumnType>;
const NAMES = Object.keys(ASSIGNMENT);

/** With what the node is told: from one statement, so that a generation never goes with another's text. */
export type NodeRow = AssignmentRow & { body: string };
export interface Load {
  count: number;
  bytes: number;
}

export const assignmentsRepository = (storage: Storage) => {
  const { kind, read } = storage;
  const save = rowInserts(
    kind,
    'backups_assignments',
    ASSIGNMENT,
    `on conflict (node_uid, config_id) do update set ${NAMES.filter((name) => !['node_uid', 'config_id'].includes(name))
      .map((name) => `${name} = excluded.${name}`)
      .join(', ')}`,
  );
  const reissue = (rows: readonly AssignmentRow[]): Statement =>
    kind === 'sqlite'
      ? {
          sql: `update backups_assignments set directive_id = ?, issued_at = ?
                where node_uid = ? and config_id = ? and generation = ?`,
          runs: rows.map((row) => [row.directive_id, row.issued_at, row.node_uid, row.config_id, row.generation]),
        }
      : {
          sql: `update backups_assignments as a set directive_id = j.directive_id, issued_at = j.issued_at
                from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bigint[])
                  as j(directive_id, issued_at, node_uid, config_id, generation)
                where a.node_uid = j.node_uid and a.config_id = j.config_id and a.generation = j.generation`,
          runs: [
            [
              rows.map((row) => row.directive_id),
              rows.map((row) => row.issued_at),
              rows.map((row) => row.node_uid),
              rows.map((row) => row.config_id),
              rows.map((row) => row.generation),
            ],
          ],
        };
  const SELECT = `select ${NAMES.join(', ')} from backups_assignments`;
  const LOAD = `select node_uid, count(*) as count, sum(bytes) as bytes from backups_assignments where present = 1`;
  const loads = (uids: readonly string[]): Statement =>
    kind === 'sqlite'
      ? { sql: `${LOAD} and node_uid = ? group by node_uid`, runs: uids.map((uid) => [uid]) }
      : {
          sql: `${LOAD} and node_uid = any($1::text[]) group by node_uid`,
          runs: [[uids]],
        };
  const ofNode = compiledOnce((of: { uid: string }) =>
    read
      .selectFrom('backups_assignments as a')
      .innerJoin('backups_configs as c', 'c.id', 'a.config_id')
      .selectAll('a')
      .select('c.body')
      .where('a.node_uid', '=', of.uid)
      .where('a.confirmed', '=', 0)
      .orderBy('a.config_id'),
  );
  const one = compiledOnce((of: { uid: string; configId: string }) =>
    read
      .selectFrom('backups_assignments')
      .selectAll()
      .where('node_uid', '=', of.uid)
      .where('config_id', '=', of.configId),
  );

  return {
    /** Tombstones too. */
    ofConfig: async (db: Executor, configId: string): Promise<Map<string, AssignmentRow>> => {
      const [rows = []] = await together(db, [
        { sql: `${SELECT} where config_id = ${kind === 'sqlite' ? '?' : '$1'}`, runs: [[configId]] },
      ]);
      return new Map((rows as AssignmentRow[]).map((row) => [row.node_uid, row]));
    },
    /** Of one node: those that it has, and those that it is to drop. */
    ofNode: (uid: string): Promise<NodeRow[]> => ofNode(read, { uid }) as Promise<NodeRow[]>,
    one: async (uid: string, configId: string): Promise<AssignmentRow | undefined> =>
      (await one(read, { uid, configId }))[0],
    allOfNodeIn: (tx: Tx, uid: string): Promise<AssignmentRow[]> =>
      tx.selectFrom('backups_assignments').selectAll().where('node_uid', '=', uid).execute(),
    /** What each node carries now. */
    loads: async (tx: Tx, uids: readonly string[]): Promise<Map<string, Load>> => {
      const [rows = []] = await together(tx, [loads(uids)]);
      return new Map(
        (rows as (Load & { node_uid: string })[]).map(({ node_uid, count, bytes }) => [
          node_uid,
          { count: Number(count), bytes: Number(bytes) },
        ]),
      );
    },
    save: async (tx: Tx, rows: readonly AssignmentRow[]): Promise<void> => {
      if (rows.length > 0) await together(tx, [save(rows)]);
    },
    /** Fresh directives for the same generations. */
    reissue: async (tx: Tx, rows: readonly AssignmentRow[]): Promise<void> => {
      await together(tx, [reissue(rows)]);
    },
    /** Which nodes have which configuration, for the loop that compares. */
    present: (): Promise<Pick<AssignmentRow, 'node_uid' | 'config_id'>[]> =>
      read.selectFrom('backups_assignments').select(['node_uid', 'config_id']).where('present', '=', 1).execute(),
    presentOf: async (uid: string): Promise<Set<string>> => {
      const rows = await read
        .selectFrom('backups_assignments')
        .select('config_id')
        .where('node_uid', '=', uid)
        .where('present', '=', 1)
        .execute();
      return new Set(rows.map(({ config_id }) => config_id));
    },
    /** How many nodes within have each. */
    countsOf: async (configIds: readonly string[], within: Within): Promise<Map<string, number>> => {
      if (configIds.length === 0) return new Map();
      const rows = await read
        .selectFrom('backups_assignments')
        .select((of) => ['config_id', of.fn.countAll<number>().as('count')])
        .where('config_id', 'in', configIds)
        .where('present', '=', 1)
        .where(within === null ? sql<boolean>`1 = 1` : within.holds('backups_assignments.node_uid'))
        .groupBy('config_id')
        .execute();
      return new Map(rows.map(({ config_id, count }) => [config_id, Number(count)]));
    },
    /** Those within that have it now, by name. */
    page: (
      configId: string,
      limit: number,
      after: readonly [string, string] | undefined,
      within: Within,
    ): Promise<AssignmentRow[]> => {
      const rows = read
        .selectFrom('backups_assignments')
        .selectAll()
        .where('config_id', '=', configId)
        .where('present', '=', 1)
        .where(within === null ? sql<boolean>`1 = 1` : within.holds('backups_assignments.node_uid'))
        .orderBy('node_name')
        .orderBy('node_uid')
        .limit(limit);
      return (
        after
          ? rows.where((where) => where(where.refTuple('node_name', 'node_uid'), '>', where.tuple(after[0], after[1])))
          : rows
      ).execute();
    },
    write: storage.write,
  };
};
export type AssignmentsRepository = ReturnType<typeof assignmentsRepository>;
