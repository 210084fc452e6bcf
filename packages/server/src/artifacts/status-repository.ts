import type { ArtifactState } from '@aegis/protocol/artifacts/status';
import { sql } from 'kysely';
import type { Within } from '../platform/node-scope.ts';
import type { Statement } from '../platform/storage/statements.ts';
import { together } from '../platform/storage/statements.ts';
import type { Storage, Tx } from '../tables.ts';
import type { ArtifactsTables, AssignmentRow } from './tables.ts';

/** The SQL of what nodes report. */

export type ReportRow = ArtifactsTables['artifacts_reports'];
export interface StatusFilter {
  artifactId?: string | undefined;
  name?: string | undefined;
  /** A node's name or uid. */
  node?: string | undefined;
  state?: ArtifactState | undefined;
  within: Within;
}
/** An assignment, without its report's text. */
export type StatusRow = Pick<
  AssignmentRow,
  'node_uid' | 'node_name' | 'name' | 'generation' | 'present' | 'constants'
> & { version: string; state: ArtifactState; reported_at: number | null; chars: number | null };
export type ReportText = Pick<ReportRow, 'node_uid' | 'name' | 'report' | 'verifier_log'>;

/** `pending` until the node has reported the generation that is wished. */
const STATE = sql<ArtifactState>`case when r.generation = a.generation then r.state else 'pending' end`;

export const statusRepository = (storage: Storage) => {
  const { kind, read } = storage;
  const textOf = (keys: readonly { node_uid: string; name: string }[]): Statement => {
    const select = 'select node_uid, name, report, verifier_log from artifacts_reports';
    return kind === 'sqlite'
      ? { sql: `${select} where node_uid = ? and name = ?`, runs: keys.map((key) => [key.node_uid, key.name]) }
      : {
          sql: `${select} where (node_uid, name) in (select * from unnest($1::text[], $2::text[]))`,
          runs: [[keys.map((key) => key.node_uid), keys.map((key) => key.name)]],
        };
  };
  return {
    store: async (tx: Tx, row: ReportRow): Promise<void> => {
      await tx
        .insertInto('artifacts_reports')
        .values(row)
        .onConflict((conflict) => conflict.columns(['node_uid', 'name']).doUpdateSet(row))
        .execute();
    },
    reportIn: (tx: Tx, nodeUid: string, name: string): Promise<ReportRow | undefined> =>
      tx
        .selectFrom('artifacts_reports')
        .selectAll()
        .where('node_uid', '=', nodeUid)
        .where('name', '=', name)
        .executeTakeFirst(),
    /** By name and node, those after `after`. Tombstones that are confirmed only where `state` asks for detached ones. */
    page: (filter: StatusFilter, limit: number, after: readonly [string, string] | undefined): Promise<StatusRow[]> => {
      const { artifactId, name, node, state, within } = filter;
      let rows = read
        .selectFrom('artifacts_assignments as a')
        .innerJoin('artifacts', 'artifacts.id', 'a.artifact_id')
        .leftJoin('artifacts_reports as r', (join) =>
          join.onRef('r.node_uid', '=', 'a.node_uid').onRef('r.name', '=', 'a.name'),
        )
        .select(['a.node_uid', 'a.node_name', 'a.name', 'a.generation', 'a.present', 'a.constants'])
        .select(['artifacts.version', 'r.reported_at', 'r.chars'])
        .select(STATE.as('state'))
        .orderBy('a.name')
        .orderBy('a.node_uid')
        .limit(limit);
      if (state !== 'detached') rows = rows.where('a.confirmed', '=', 0);
      if (state !== undefined) rows = rows.where(STATE, '=', state);
      if (artifactId !== undefined) rows = rows.where('a.artifact_id', '=', artifactId);
      if (name !== undefined) rows = rows.where('a.name', '=', name);
      if (node !== undefined)
        rows = rows.where((where) => where.or([where('a.node_uid', '=', node), where('a.node_name', '=', node)]));
      if (within) rows = rows.where(within.holds('a.node_uid'));
      if (after) rows = rows.where(sql<boolean>`(a.name, a.node_uid) > (${after[0]}, ${after[1]})`);
      return rows.execute();
    },
    texts: async (keys: readonly { node_uid: string; name: string }[]): Promise<ReportText[]> => {
      if (keys.length === 0) return [];
      const [rows = []] = await together(read, [textOf(keys)]);
      return rows as ReportText[];
    },
    storeKernel: async (tx: Tx, row: ArtifactsTables['artifacts_kernels']): Promise<void> => {
      await tx
        .insertInto('artifacts_kernels')
        .values(row)
        .onConflict((conflict) => conflict.column('node_uid').doUpdateSet(row))
        .execute();
    },
    kernelOf: (uid: string): Promise<{ report: string; reported_at: number } | undefined> =>
      read
        .selectFrom('artifacts_kernels')
        .select(['report', 'reported_at'])
        .where('node_uid', '=', uid)
        .executeTakeFirst(),
    write: storage.write,
  };
};
export type StatusRepository = ReturnType<typeof statusRepository>;
