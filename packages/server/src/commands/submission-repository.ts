import { sql } from 'kysely';
import type { Storage, Tx } from '../tables.ts';
import { addToQueues } from './executions-repository.ts';
import { isIn, jsonRows } from './set-queries.ts';
import type { CommandRow } from './tables.ts';

export type NewExecution = Readonly<Record<'id' | 'uid' | 'name', string>>;
export interface KnownSubmission {
  request_sha256: string | null;
  answer: string | null;
}

export const submissionRepository = (storage: Storage) => {
  const { kind } = storage;
  return {
    known: (db: Tx | Storage['read'], actorId: string, key: string): Promise<KnownSubmission | undefined> =>
      db
        .selectFrom('commands')
        .select(['request_sha256', 'answer'])
        .where('actor_id', '=', actorId)
        .where('idempotency_key', '=', key)
        .executeTakeFirst(),

    /** Those of the nodes that have `limit` or more queued. */
    fullQueues: async (tx: Tx, nodeUids: readonly string[], limit: number): Promise<Set<string>> => {
      const rows = await tx
        .selectFrom('commands_queues')
        .select('node_uid')
        .where(isIn(kind, 'node_uid', nodeUids))
        .where('queued', '>=', limit)
        .execute();
      return new Set(rows.map((row) => row.node_uid));
    },

    /** False when the actor's idempotency key was used meanwhile: nothing was inserted. */
    insertCommand: async (tx: Tx, command: CommandRow): Promise<boolean> => {
      const { numInsertedOrUpdatedRows } = await tx
        .insertInto('commands')
        .values(command)
        .onConflict((conflict) => conflict.doNothing())
        .executeTakeFirstOrThrow();
      return numInsertedOrUpdatedRows === 1n;
    },

    /** First attempts, one per node, in one statement however many they are. */
    insertExecutions: async (tx: Tx, command: CommandRow, executions: readonly NewExecution[]): Promise<void> => {
      const int = (value: number | null) => sql`cast(${value} as bigint)`;
      await sql`insert into commands_executions (
          command_id, priority, due_at, not_before, expires_at, created_at, heard_at,
          id, node_uid, node_name, attempt, newest, state, presumed, report_signed,
          stdout_next, stdout_missing, stderr_next, stderr_missing)
        select cast(${command.id} as text), ${int(command.priority)}, ${int(command.scheduled_at ?? command.created_at)},
          ${int(command.scheduled_at)}, ${int(command.expires_at)}, ${int(command.created_at)}, ${int(command.created_at)},
          j.id, j.uid, j.name, 1, 1, 'queued', 0, 0, 0, 0, 0, 0
        from ${jsonRows(kind, 'j', { id: 'text', uid: 'text', name: 'text' }, executions)}`.execute(tx);
      await addToQueues(kind, tx, new Map(executions.map(({ uid }) => [uid, 1])));
    },
  };
};
export type SubmissionRepository = ReturnType<typeof submissionRepository>;
