import { type RawBuilder, type SqlBool, sql } from 'kysely';
import type { Storage, Tx } from '../tables.ts';
import type { CommandHead, Outcome } from './changes.ts';
import { type ColumnType, isIn, jsonRows, type RowChange, updatesOf } from './set-queries.ts';
import type { ExecutionRow } from './tables.ts';

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
} as const satisfies Partial<Record<keyof CommandHead, ColumnType>>;

export const COMMAND_HEAD = [
  'id',
  'correlation_id',
  'command_type',
  'text_chars',
  'actor_kind',
  'actor_id',
  'actor_name',
  'state',
  'result',
  'priority',
  'delivery',
  'max_retries',
  'retry_backoff_ms',
  'retry_count',
  'output_limit_bytes',
  'created_at',
  'scheduled_at',
  'expires_at',
  'deadline_at',
  'executed_at',
  'completed_at',
  'error_message',
  'check_at',
] as const satisfies readonly (keyof CommandHead)[];

/** Names the partial index that a poll and the loops use; the term must stand in the query as it does in the index. */
export const OPEN: RawBuilder<SqlBool> = sql`commands_executions.state in ('queued', 'delivered', 'running')`;

export interface AttemptKey {
  commandId: string;
  attempt: number;
}

export const executionsRepository = (storage: Storage) => {
  const { kind } = storage;
  const locked = (tx: Tx) =>
    tx
      .selectFrom('commands_executions')
      .selectAll()
      .orderBy('id')
      .$if(kind === 'postgres', (query) => query.forUpdate());

  return {
    byIds: (tx: Tx, nodeUid: string, ids: readonly string[]): Promise<ExecutionRow[]> =>
      locked(tx)
        .where(isIn(kind, 'id', ids))
        .where('node_uid', '=', nodeUid)
        .execute(),

    byAttempts: (tx: Tx, nodeUid: string, keys: readonly AttemptKey[]): Promise<ExecutionRow[]> =>
      locked(tx)
        .where('node_uid', '=', nodeUid)
        .where(
          sql<boolean>`(command_id, attempt) in (select j.command_id, j.attempt from ${jsonRows(
            kind,
            'j',
            { command_id: 'text', attempt: 'bigint' },
            keys.map(({ commandId, attempt }) => ({ command_id: commandId, attempt })),
          )})`,
        )
        .execute(),

    /** Newest attempts that have not ended, at most `limit`, of a command and perhaps on one node only. */
    openOfCommand: (tx: Tx, commandId: string, limit: number, node?: string): Promise<ExecutionRow[]> =>
      locked(tx)
        .where('command_id', '=', commandId)
        .where(OPEN)
        .$if(node !== undefined, (query) =>
          query.where((where) => where.or([where('node_uid', '=', node ?? ''), where('node_name', '=', node ?? '')])),
        )
        .limit(limit)
        .execute(),

    /** Queued beyond their time. */
    overdueOfCommand: (tx: Tx, commandId: string, now: number, limit: number): Promise<ExecutionRow[]> =>
      locked(tx)
        .where('command_id', '=', commandId)
        .where('state', '=', 'queued')
        .where('expires_at', '<=', now)
        .limit(limit)
        .execute(),

    /** What nodes hold of a command, without a lock. */
    heldOfCommand: (commandId: string): Promise<ExecutionRow[]> =>
      storage.read
        .selectFrom('commands_executions')
        .selectAll()
        .where('command_id', '=', commandId)
        .where('state', 'in', ['delivered', 'running'])
        .execute(),

    anyByIds: (tx: Tx, ids: readonly string[]): Promise<ExecutionRow[]> =>
      locked(tx)
        .where(isIn(kind, 'id', ids))
        .execute(),

    openOfNode: (tx: Tx, nodeUid: string, limit: number): Promise<ExecutionRow[]> =>
      locked(tx).where('node_uid', '=', nodeUid).where(OPEN).limit(limit).execute(),

    commandHeads: (tx: Tx, executions: readonly ExecutionRow[]): Promise<CommandHead[]> =>
      tx
        .selectFrom('commands')
        .select(COMMAND_HEAD)
        .where(isIn(kind, 'id', [...new Set(executions.map((row) => row.command_id))]))
        .orderBy('id')
        .$if(kind === 'postgres', (query) => query.forUpdate())
        .execute(),

    save: async (tx: Tx, outcome: Outcome): Promise<void> => {
      for (const update of updatesOf(kind, 'commands_executions', MUTABLE, outcome.changed as unknown as RowChange[]))
        await update.execute(tx);
      for (const row of outcome.created) await tx.insertInto('commands_executions').values(row).execute();
      for (const update of updatesOf(kind, 'commands', COMMAND_MUTABLE, outcome.commands as unknown as RowChange[]))
        await update.execute(tx);
      if (outcome.queued.size > 0) await addToQueues(kind, tx, outcome.queued);
    },
  };
};
export type ExecutionsRepository = ReturnType<typeof executionsRepository>;

export const addToQueues = async (
  kind: Storage['kind'],
  tx: Tx,
  growth: ReadonlyMap<string, number>,
): Promise<void> => {
  // Sorted, so that two processes on one PostgreSQL take the rows' locks in the same order.
  const rows = [...growth].sort(([a], [b]) => (a < b ? -1 : 1)).map(([node_uid, queued]) => ({ node_uid, queued }));
  await sql`insert into commands_queues (node_uid, queued)
    select j.node_uid, j.queued from ${jsonRows(kind, 'j', { node_uid: 'text', queued: 'bigint' }, rows)} where true
    on conflict (node_uid) do update set queued = commands_queues.queued + excluded.queued`.execute(tx);
};
