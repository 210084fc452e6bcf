import { sql } from 'kysely';
import type { Storage, Tx } from '../tables.ts';
import type { CommandRow } from './tables.ts';

export type DueCommand = Pick<CommandRow, 'id' | 'state' | 'expires_at' | 'deadline_at'>;

export const expiryRepository = (storage: Storage) => {
  const { kind } = storage;
  return {
    dueCommands: (now: number, limit: number): Promise<DueCommand[]> =>
      storage.read
        .selectFrom('commands')
        .select(['id', 'state', 'expires_at', 'deadline_at'])
        .where('check_at', '<=', now)
        .orderBy('check_at')
        .limit(limit)
        .execute(),

    /** When to look next; only while the command is open, a final one has its retention there. */
    checkAgain: async (tx: Tx, commandId: string, at: number): Promise<void> => {
      await tx
        .updateTable('commands')
        .set({ check_at: at })
        .where('id', '=', commandId)
        .where('state', 'in', ['pending', 'running'])
        .execute();
    },

    /** Deletes at most `limit` rows of a command's output; answers how many. */
    deleteOutput: async (tx: Tx, commandId: string, limit: number): Promise<number> => {
      const { numAffectedRows } = await sql`delete from commands_output
        where (execution_id, stream, start) in (
          select o.execution_id, o.stream, o.start from commands_output as o
          join commands_executions as e on e.id = o.execution_id
          where e.command_id = ${commandId} limit ${limit})`.execute(tx);
      return Number(numAffectedRows ?? 0n);
    },

    deleteExecutions: async (tx: Tx, commandId: string, limit: number): Promise<number> => {
      const { numDeletedRows } = await tx
        .deleteFrom('commands_executions')
        .where('id', 'in', (of) =>
          of.selectFrom('commands_executions').select('id').where('command_id', '=', commandId).limit(limit),
        )
        .executeTakeFirstOrThrow();
      return Number(numDeletedRows);
    },

    deleteCommand: async (tx: Tx, commandId: string): Promise<void> => {
      await tx.deleteFrom('commands').where('id', '=', commandId).execute();
    },

    /** Locks the command's row so that nothing reopens it between two batches; false when something has. */
    stillExpired: async (tx: Tx, commandId: string, now: number): Promise<boolean> => {
      const row = await tx
        .selectFrom('commands')
        .select('id')
        .where('id', '=', commandId)
        .where('check_at', '<=', now)
        .where('state', 'not in', ['pending', 'running'])
        .$if(kind === 'postgres', (query) => query.forUpdate())
        .executeTakeFirst();
      return row !== undefined;
    },
  };
};
export type ExpiryRepository = ReturnType<typeof expiryRepository>;
