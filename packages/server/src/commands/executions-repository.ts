import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { Within } from '../platform/node-scope.ts';
import { compiledOnce } from '../platform/storage/compiled.ts';
import {
  type ColumnType,
  type RowChange,
  rowInserts,
  rowsByKey,
  rowUpdates,
} from '../platform/storage/row-statements.ts';
import { type Statement, together } from '../platform/storage/statements.ts';
import type { Storage, Tx } from '../tables.ts';
import type { Outcome } from './changes.ts';
import type { ExecutionRow, LiveCommand, LiveExecution } from './tables.ts';
import type { Tell } from './told.ts';

/** Executions and their commands inside one transaction: loaded (and on PostgreSQL locked, in the order of their ids), then
 *  saved as a set. */

const MUTABLE = {
  state: 'text',
  presumed: 'bigint',
  newest: 'bigint',
  due_at: 'bigint',
  offered_at: 'bigint',
  cancel_id: 'text',
  cancel_at: 'bigint',
  cancel_offered_at: 'bigint',
  cancel_due_at: 'bigint',
  delivered_at: 'bigint',
  started_at: 'bigint',
  finished_at: 'bigint',
  heard_at: 'bigint',
  exit_code: 'bigint',
  signal: 'text',
  error_code: 'text',
  error_message: 'text',
  usage: 'text',
  tree_empty: 'bigint',
  report_signed: 'bigint',
  output_verified: 'bigint',
  stdout_next: 'bigint',
  stdout_missing: 'bigint',
  stdout_bytes: 'bigint',
  stdout_sha256: 'text',
  stderr_next: 'bigint',
  stderr_missing: 'bigint',
  stderr_bytes: 'bigint',
  stderr_sha256: 'text',
} as const satisfies Partial<Record<keyof ExecutionRow, ColumnType>>;

const COMMAND_MUTABLE = {
  state: 'text',
  result: 'text',
  retry_count: 'bigint',
  executed_at: 'bigint',
  completed_at: 'bigint',
  error_message: 'text',
  check_at: 'bigint',
} as const satisfies Partial<Record<keyof LiveCommand, ColumnType>>;

const LIVE = [
  'id',
  'command_id',
  'node_uid',
  'node_name',
  'attempt',
  'newest',
  'state',
  'presumed',
  'expires_at',
  'offered_at',
  'cancel_id',
  'cancel_at',
  'cancel_offered_at',
  'cancel_due_at',
  'delivered_at',
  'started_at',
  'finished_at',
  'heard_at',
  'stdout_next',
  'stdout_missing',
  'stdout_bytes',
  'stderr_next',
  'stderr_missing',
  'stderr_bytes',
] as const satisfies readonly (keyof LiveExecution)[];

const LIVE_COMMAND = [
  'id',
  'state',
  'result',
  'priority',
  'delivery',
  'max_retries',
  'retry_backoff_ms',
  'retry_count',
  'output_limit_bytes',
  'scheduled_at',
  'expires_at',
  'executed_at',
  'completed_at',
  'error_message',
  'check_at',
] as const satisfies readonly (keyof LiveCommand)[];

/** Names the partial index that a poll and the loops use; the term must stand in the query as it does in the index. */
export const OPEN: RawBuilder<SqlBool> = sql`commands_executions.state in ('queued', 'delivered', 'running')`;

export interface AttemptKey {
  nodeUid: string;
  commandId: string;
  attempt: number;
}
/** Executions with the commands that they belong to. */
export interface Loaded {
  rows: LiveExecution[];
  heads: LiveCommand[];
}
const NOTHING: Loaded = { rows: [], heads: [] };

export const executionsRepository = (storage: Storage, tell: Tell) => {
  const { kind } = storage;
  const growth = queueGrowth(kind);
  const locked = (tx: Tx) =>
    tx
      .selectFrom('commands_executions')
      .select(LIVE)
      .orderBy('id')
      .$if(kind === 'postgres', (query) => query.forUpdate());
  const rowsWith = rowsByKey(kind, { table: 'commands_executions', columns: LIVE, key: 'id', lock: true });
  const headsWith = rowsByKey(kind, { table: 'commands', columns: LIVE_COMMAND, key: 'id', lock: true });
  /** On PostgreSQL in the same round trip as the executions, whose commands are not known yet. */
  const headsOf = (ids: readonly string[]): Statement => ({
    sql: `select ${LIVE_COMMAND.join(', ')} from commands
      where id in (select command_id from commands_executions where id = any($1::text[])) order by id for update`,
    runs: [[ids]],
  });
  const updates = rowUpdates(kind, 'commands_executions', MUTABLE);
  const commandUpdates = rowUpdates(kind, 'commands', COMMAND_MUTABLE);
  const idOfAttempt = compiledOnce((key: { nodeUid: string; commandId: string; attempt: number }) =>
    storage.read
      .selectFrom('commands_executions')
      .select('id')
      .where('command_id', '=', key.commandId)
      .where('node_uid', '=', key.nodeUid)
      .where('attempt', '=', key.attempt),
  );

  const commandHeads = async (tx: Tx, executions: readonly LiveExecution[]): Promise<LiveCommand[]> => {
    const ids = new Set(executions.map((row) => row.command_id));
    const [heads = []] = await together(tx, ids.size > 0 ? [headsWith([...ids])] : []);
    return heads as LiveCommand[];
  };

  return {
    commandHeads,

    /** Whoever's they are: callers compare the node. */
    byIds: async (tx: Tx, ids: readonly string[]): Promise<Loaded> => {
      if (ids.length === 0) return NOTHING;
      const [rows = [], heads] = await together(tx, [rowsWith(ids), ...(kind === 'postgres' ? [headsOf(ids)] : [])]);
      const executions = rows as LiveExecution[];
      return { rows: executions, heads: (heads as LiveCommand[] | undefined) ?? (await commandHeads(tx, executions)) };
    },

    /** Ids of executions that are named by command and attempt, without a lock. */
    idsOfAttempts: async (tx: Tx, keys: readonly AttemptKey[]): Promise<string[]> => {
      const found = await together(
        tx,
        keys.map((key) => idOfAttempt.statement({ ...key })),
      );
      return found.flatMap((rows) => (rows as { id: string }[]).map(({ id }) => id));
    },

    /** Newest attempts that have not ended, at most `limit`, of a command and perhaps on one node only. */
    openOfCommand: (
      tx: Tx,
      commandId: string,
      limit: number,
      within: Within,
      node?: string,
    ): Promise<LiveExecution[]> =>
      locked(tx)
        .where('command_id', '=', commandId)
        .where(OPEN)
        .where(within === null ? sql<boolean>`1 = 1` : within.holds('commands_executions.node_uid'))
        .$if(node !== undefined, (query) =>
          query.where((where) => where.or([where('node_uid', '=', node ?? ''), where('node_name', '=', node ?? '')])),
        )
        .limit(limit)
        .execute(),

    /** What was presumed cancelled and has not ended as far as its node says is offered its cancel again: by now an operator has signed it.
     *  Answers the nodes. */
    cancelAgain: async (tx: Tx, commandId: string, now: number, within: Within, node?: string): Promise<string[]> => {
      const rows = await tx
        .updateTable('commands_executions')
        .set({ cancel_at: now, cancel_due_at: now })
        .where('command_id', '=', commandId)
        .where('state', '=', 'cancelled')
        .where('presumed', '=', 1)
        .where('cancel_id', 'is not', null)
        .where(within === null ? sql<boolean>`1 = 1` : within.holds('commands_executions.node_uid'))
        .$if(node !== undefined, (query) =>
          query.where((where) => where.or([where('node_uid', '=', node ?? ''), where('node_name', '=', node ?? '')])),
        )
        .returning('node_uid')
        .execute();
      return rows.map(({ node_uid }) => node_uid);
    },

    /** Queued beyond their time. */
    overdueOfCommand: (tx: Tx, commandId: string, now: number, limit: number): Promise<LiveExecution[]> =>
      locked(tx)
        .where('command_id', '=', commandId)
        .where('state', '=', 'queued')
        .where('expires_at', '<=', now)
        .limit(limit)
        .execute(),

    /** What nodes hold of a command, without a lock. */
    heldOfCommand: (commandId: string): Promise<LiveExecution[]> =>
      storage.read
        .selectFrom('commands_executions')
        .select(LIVE)
        .where('command_id', '=', commandId)
        .where('state', 'in', ['delivered', 'running'])
        .execute(),

    openOfNode: (tx: Tx, nodeUid: string, limit: number): Promise<LiveExecution[]> =>
      locked(tx).where('node_uid', '=', nodeUid).where(OPEN).limit(limit).execute(),

    /** @param first statements that belong to the same change and go with it, before it */
    save: async (tx: Tx, outcome: Outcome, first: readonly Statement[] = []): Promise<void> => {
      await together(tx, [
        ...first,
        ...updates(outcome.changed as unknown as RowChange[]),
        ...outcome.created.map((row): Statement => {
          const { sql: text, parameters } = tx.insertInto('commands_executions').values(row).compile();
          return { sql: text, runs: [parameters] };
        }),
        ...commandUpdates(outcome.commands as unknown as RowChange[]),
        ...(outcome.queued.size > 0 ? [growth(outcome.queued)] : []),
        ...tell(outcome.told),
      ]);
    },
  };
};
export type ExecutionsRepository = ReturnType<typeof executionsRepository>;

/** Node uid → by how much its queue grows. */
export const queueGrowth = (kind: Storage['kind']): ((growth: ReadonlyMap<string, number>) => Statement) => {
  const insert = rowInserts(
    kind,
    'commands_queues',
    { node_uid: 'text', queued: 'bigint' },
    'on conflict (node_uid) do update set queued = commands_queues.queued + excluded.queued',
  );
  // Sorted, so that two processes on one PostgreSQL take the rows' locks in the same order.
  return (growth) =>
    insert([...growth].sort(([a], [b]) => (a < b ? -1 : 1)).map(([node_uid, queued]) => ({ node_uid, queued })));
};
