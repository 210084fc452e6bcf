import { sql } from 'kysely';
import type { Within } from '../platform/node-scope.ts';
import { compiledOnce } from '../platform/storage/compiled.ts';
import { type ColumnType, rowInserts, rowsByKey } from '../platform/storage/row-statements.ts';
import { type Statement, together } from '../platform/storage/statements.ts';
import type { Storage, Tx } from '../tables.ts';
import { type ArtifactHead, HEAD } from './repository.ts';
import type { AssignmentRow, DesiredRow } from './tables.ts';

/** The SQL of desired state: which node is to run what, and each node's revision. Sets of rows at a time: a thousand nodes cost as
 *  many statements as one. Rows are locked in the order of the nodes' uids. */

const ASSIGNMENT = {
  node_uid: 'text',
  name: 'text',
  node_name: 'text',
  generation: 'bigint',
  present: 'bigint',
  artifact_id: 'text',
  assigned_at: 'bigint',
  assigned_by: 'text',
  directive_id: 'text',
  issued_at: 'bigint',
  confirmed: 'bigint',
  constants: 'text',
} as const satisfies Record<keyof AssignmentRow, ColumnType>;
const DESIRED = {
  node_uid: 'text',
  revision: 'bigint',
  present: 'bigint',
  bytes: 'bigint',
  trust_version: 'bigint',
} as const satisfies Record<keyof DesiredRow, ColumnType>;

const namesOf = (columns: Readonly<Record<string, unknown>>): string[] => Object.keys(columns);
const replacing = (columns: Readonly<Record<string, unknown>>, key: readonly string[]): string =>
  `on conflict (${key.join(', ')}) do update set ${namesOf(columns)
    .filter((name) => !key.includes(name))
    .map((name) => `${name} = excluded.${name}`)
    .join(', ')}`;

/** An assignment with the artifact that it names. */
export type HostRow = AssignmentRow & { artifact: ArtifactHead };

export const assignmentsRepository = (storage: Storage) => {
  const { kind, read } = storage;
  const ensureDesired = rowInserts(kind, 'artifacts_desired', DESIRED, 'on conflict (node_uid) do nothing');
  const saveDesired = rowInserts(kind, 'artifacts_desired', DESIRED, replacing(DESIRED, ['node_uid']));
  const announce = rowInserts(
    kind,
    'artifacts_desired',
    DESIRED,
    `on conflict (node_uid) do update
     set revision = artifacts_desired.revision + 1, trust_version = excluded.trust_version
     where artifacts_desired.trust_version < excluded.trust_version returning node_uid, revision`,
  );
  const bump = rowInserts(
    kind,
    'artifacts_desired',
    DESIRED,
    `on conflict (node_uid) do update set revision = artifacts_desired.revision + 1 returning node_uid, revision`,
  );
  const saveAssignments = rowInserts(
    kind,
    'artifacts_assignments',
    ASSIGNMENT,
    replacing(ASSIGNMENT, ['node_uid', 'name']),
  );
  const lockDesired = rowsByKey(kind, {
    table: 'artifacts_desired',
    columns: namesOf(DESIRED),
    key: 'node_uid',
    lock: true,
  });
  const select = `select ${namesOf(ASSIGNMENT).join(', ')} from artifacts_assignments where`;
  const ofName = (name: string, uids: readonly string[]): Statement =>
    kind === 'sqlite'
      ? { sql: `${select} node_uid = ? and name = ?`, runs: uids.map((uid) => [uid, name]) }
      : { sql: `${select} node_uid = any($1::text[]) and name = $2`, runs: [[uids, name]] };
  const revisionOf = compiledOnce((of: { uid: string }) =>
    read.selectFrom('artifacts_desired').select('revision').where('node_uid', '=', of.uid),
  );
  const ofHost = compiledOnce((of: { uid: string }) =>
    read
      .selectFrom('artifacts_assignments as a')
      .innerJoin('artifacts', 'artifacts.id', 'a.artifact_id')
      .select([
        'a.node_uid',
        'a.node_name',
        'a.generation',
        'a.present',
        'a.artifact_id',
        'a.assigned_at',
        'a.assigned_by',
        'a.directive_id',
        'a.issued_at',
        'a.confirmed',
        'a.constants',
        ...HEAD.map((name) => `artifacts.${name}` as const),
      ])
      .where('a.node_uid', '=', of.uid)
      .where('a.confirmed', '=', 0)
      .orderBy('a.name'),
  );

  return {
    /** Locks the nodes' desired state, made where there is none, and answers it with their assignments of this name.
     *  @param uids in their order */
    lock: async (
      tx: Tx,
      name: string,
      uids: readonly string[],
    ): Promise<{ desired: Map<string, DesiredRow>; assignments: Map<string, AssignmentRow> }> => {
      const blank = uids.map((node_uid) => ({ node_uid, revision: 0, present: 0, bytes: 0, trust_version: 0 }));
      const [, desired = [], rows = []] = await together(tx, [
        ensureDesired(blank),
        lockDesired(uids),
        ofName(name, uids),
      ]);
      return {
        desired: new Map((desired as DesiredRow[]).map((row) => [row.node_uid, row])),
        assignments: new Map((rows as AssignmentRow[]).map((row) => [row.node_uid, row])),
      };
    },
    save: async (tx: Tx, assignments: readonly AssignmentRow[], desired: readonly DesiredRow[]): Promise<void> => {
      if (assignments.length > 0) await together(tx, [saveAssignments(assignments), saveDesired(desired)]);
    },
    /** Counts a change of each, for whatever kind of desired state, and locks their rows in this order.
     *  @param uids in their order */
    bump: async (tx: Tx, uids: readonly string[]): Promise<[string, number][]> => {
      if (uids.length === 0) return [];
      const rows = uids.map((node_uid) => ({ node_uid, revision: 1, present: 0, bytes: 0, trust_version: 0 }));
      const [changed = []] = await together(tx, [bump(rows)]);
      return (changed as { node_uid: string; revision: number }[]).map((row) => [row.node_uid, row.revision]);
    },
    /** Counts a change of those that have not been woken for this version of the trust bundle; answers their new revisions. */
    announceTrust: async (tx: Tx, uids: readonly string[], version: number): Promise<[string, number][]> => {
      const rows = uids.map((node_uid) => ({ node_uid, revision: 1, present: 0, bytes: 0, trust_version: version }));
      const [changed = []] = await together(tx, [announce(rows)]);
      return (changed as { node_uid: string; revision: number }[]).map((row) => [row.node_uid, row.revision]);
    },
    /** Nothing of a node stays. Waits for whoever changes its desired state. */
    forget: async (tx: Tx, uid: string): Promise<void> => {
      const blank = { node_uid: uid, revision: 0, present: 0, bytes: 0, trust_version: 0 };
      // The lock too: to insert what is there already waits for nobody.
      await together(tx, [ensureDesired([blank]), lockDesired([uid])]);
      for (const table of [
        'artifacts_assignments',
        'artifacts_reports',
        'artifacts_kernels',
        'artifacts_desired',
      ] as const)
        await tx.deleteFrom(table).where('node_uid', '=', uid).execute();
    },
    /** A fresh directive for the same generation. */
    reissue: async (
      tx: Tx,
      row: Pick<AssignmentRow, 'node_uid' | 'name' | 'generation' | 'directive_id' | 'issued_at'>,
    ) => {
      await tx
        .updateTable('artifacts_assignments')
        .set({ directive_id: row.directive_id, issued_at: row.issued_at })
        .where('node_uid', '=', row.node_uid)
        .where('name', '=', row.name)
        .where('generation', '=', row.generation)
        .execute();
    },
    confirm: async (tx: Tx, uid: string, name: string, generation: number): Promise<void> => {
      await tx
        .updateTable('artifacts_assignments')
        .set({ confirmed: 1 })
        .where('node_uid', '=', uid)
        .where('name', '=', name)
        .where('generation', '=', generation)
        .where('present', '=', 0)
        .execute();
    },
    /** As the transaction sees it now. */
    oneIn: (tx: Tx, uid: string, name: string): Promise<AssignmentRow | undefined> =>
      tx
        .selectFrom('artifacts_assignments')
        .selectAll()
        .where('node_uid', '=', uid)
        .where('name', '=', name)
        .executeTakeFirst(),
    /** The nodes within that run the artifact, by uid. */
    holdersIn: (tx: Tx, artifactId: string, within: Within): Promise<{ node_uid: string; node_name: string }[]> =>
      tx
        .selectFrom('artifacts_assignments')
        .select(['node_uid', 'node_name'])
        .where('artifact_id', '=', artifactId)
        .where('confirmed', '=', 0)
        .where('present', '=', 1)
        .where(within === null ? sql<boolean>`1 = 1` : within.holds('artifacts_assignments.node_uid'))
        .orderBy('node_uid')
        .execute(),

    revisionOf: async (uid: string): Promise<number> => (await revisionOf(read, { uid }))[0]?.revision ?? 0,
    /** The revision as it was before the rows were read: they may be newer, never older. */
    ofHost: async (uid: string): Promise<{ revision: number; rows: HostRow[] }> => {
      const [[desired] = [], rows = []] = await together(read, [
        revisionOf.statement({ uid }),
        ofHost.statement({ uid }),
      ]);
      return {
        revision: (desired as { revision: number } | undefined)?.revision ?? 0,
        rows: (rows as (Omit<AssignmentRow, 'name'> & ArtifactHead)[]).map((row) => ({ ...row, artifact: row })),
      };
    },
    /** What the nodes have of this name, without a lock. */
    ofName: async (name: string, uids: readonly string[]): Promise<Map<string, AssignmentRow>> => {
      const [rows = []] = await together(read, [ofName(name, uids)]);
      return new Map((rows as AssignmentRow[]).map((row) => [row.node_uid, row]));
    },
    /** The bundle of an artifact that this node is to run. */
    bundleFor: (
      uid: string,
      artifactId: string,
    ): Promise<{ name: string; version: string; sha256: string } | undefined> =>
      read
        .selectFrom('artifacts_assignments as a')
        .innerJoin('artifacts', 'artifacts.id', 'a.artifact_id')
        .select(['artifacts.name', 'artifacts.version', 'artifacts.sha256'])
        .where('a.artifact_id', '=', artifactId)
        .where('a.node_uid', '=', uid)
        .where('a.confirmed', '=', 0)
        .where('a.present', '=', 1)
        .executeTakeFirst(),
    /** On how many nodes within each is assigned. */
    countsOf: async (artifactIds: readonly string[], within: Within): Promise<Map<string, number>> => {
      if (artifactIds.length === 0) return new Map();
      const rows = await read
        .selectFrom('artifacts_assignments')
        .select((of) => ['artifact_id', of.fn.countAll<number>().as('count')])
        .where('artifact_id', 'in', artifactIds)
        .where('confirmed', '=', 0)
        .where('present', '=', 1)
        .where(within === null ? sql<boolean>`1 = 1` : within.holds('artifacts_assignments.node_uid'))
        .groupBy('artifact_id')
        .execute();
      return new Map(rows.map(({ artifact_id, count }) => [artifact_id, count]));
    },
    write: storage.write,
  };
};
export type AssignmentsRepository = ReturnType<typeof assignmentsRepository>;
