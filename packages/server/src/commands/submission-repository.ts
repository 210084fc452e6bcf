import { compiledOnce } from '../platform/storage/compiled.ts';
import { type ColumnType, rowInserts, rowsByKey } from '../platform/storage/row-statements.ts';
import { together } from '../platform/storage/statements.ts';
import type { Storage, Tx } from '../tables.ts';
import { newExecution } from './changes.ts';
import { queueGrowth } from './executions-repository.ts';
import type { CommandRow } from './tables.ts';
import { type Tell, toldOf } from './told.ts';

export type NewExecution = Readonly<Record<'id' | 'uid' | 'name', string>>;
export interface NewCommand {
  command: CommandRow;
  /** First attempts, one per node. */
  executions: readonly NewExecution[];
}
export interface KnownSubmission {
  request_sha256: string | null;
  answer: string | null;
}

const COMMAND = {
  id: 'text',
  correlation_id: 'text',
  command_type: 'text',
  payload: 'text',
  text_chars: 'bigint',
  targets: 'text',
  actor_kind: 'text',
  actor_id: 'text',
  actor_name: 'text',
  state: 'text',
  result: 'text',
  priority: 'bigint',
  delivery: 'text',
  max_retries: 'bigint',
  retry_backoff_ms: 'bigint',
  retry_count: 'bigint',
  output_limit_bytes: 'bigint',
  idempotency_key: 'text',
  request_sha256: 'text',
  answer: 'text',
  operator_directive: 'text',
  operator_cancels: 'text',
  created_at: 'bigint',
  scheduled_at: 'bigint',
  expires_at: 'bigint',
  deadline_at: 'bigint',
  executed_at: 'bigint',
  completed_at: 'bigint',
  error_message: 'text',
  check_at: 'bigint',
} as const satisfies Record<keyof CommandRow, ColumnType>;

/** What a new execution has; the other columns are null. */
const EXECUTION = {
  id: 'text',
  command_id: 'text',
  node_uid: 'text',
  node_name: 'text',
  attempt: 'bigint',
  newest: 'bigint',
  priority: 'bigint',
  state: 'text',
  presumed: 'bigint',
  due_at: 'bigint',
  not_before: 'bigint',
  expires_at: 'bigint',
  created_at: 'bigint',
  heard_at: 'bigint',
  report_signed: 'bigint',
  stdout_next: 'bigint',
  stdout_missing: 'bigint',
  stderr_next: 'bigint',
  stderr_missing: 'bigint',
} as const;

export const submissionRepository = (storage: Storage, tell: Tell) => {
  const { kind, read } = storage;
  const known = compiledOnce((of: { actorId: string; key: string }) =>
    read
      .selectFrom('commands')
      .select(['request_sha256', 'answer'])
      .where('actor_id', '=', of.actorId)
      .where('idempotency_key', '=', of.key),
  );
  const queues = rowsByKey(kind, { table: 'commands_queues', columns: ['node_uid', 'queued'], key: 'node_uid' });
  const commandInserts = rowInserts(kind, 'commands', COMMAND);
  const keyedInserts = rowInserts(kind, 'commands', COMMAND, 'on conflict do nothing returning id');
  const executionInserts = rowInserts(kind, 'commands_executions', EXECUTION);
  const growth = queueGrowth(kind);

  return {
    known: async (db: Tx | Storage['read'], actorId: string, key: string): Promise<KnownSubmission | undefined> =>
      (await known(db, { actorId, key }))[0],

    /** Node uid → how many are queued for it; nodes that never had one are left out. */
    queued: async (tx: Tx, nodeUids: readonly string[]): Promise<Map<string, number>> => {
      const [rows = []] = await together(tx, [queues(nodeUids)]);
      return new Map((rows as { node_uid: string; queued: number }[]).map((row) => [row.node_uid, row.queued]));
    },

    /** Stores those whose idempotency key, or signed id, nobody was quicker to use, and answers their ids. */
    insert: async (tx: Tx, commands: readonly NewCommand[]): Promise<Set<string>> => {
      const mayConflict = ({ command }: NewCommand): boolean =>
        command.idempotency_key !== null || command.operator_directive !== null;
      const keyed = commands.filter(mayConflict);
      const [rows = []] =
        keyed.length > 0 ? await together(tx, [keyedInserts(keyed.map(({ command }) => command))]) : [];
      const inserted = new Set((rows as { id: string }[]).map(({ id }) => id));
      const plain = commands.filter((one) => !mayConflict(one));
      for (const { command } of plain) inserted.add(command.id);
      const all = commands.filter(({ command }) => inserted.has(command.id));
      const executions = all.flatMap((one) => one.executions.map((execution) => executionRow(one.command, execution)));
      const grown = new Map<string, number>();
      for (const { node_uid } of executions) grown.set(node_uid, (grown.get(node_uid) ?? 0) + 1);
      if (all.length > 0)
        await together(tx, [
          ...(plain.length > 0 ? [commandInserts(plain.map(({ command }) => command))] : []),
          executionInserts(executions),
          growth(grown),
          ...tell(executions.map(toldOf)),
        ]);
      return inserted;
    },
  };
};
export type SubmissionRepository = ReturnType<typeof submissionRepository>;

const executionRow = (command: CommandRow, { id, uid, name }: NewExecution) =>
  newExecution({ id, command, node: { uid, name }, attempt: 1, notBefore: null, now: command.created_at });
