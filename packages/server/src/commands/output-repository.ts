import { sql } from 'kysely';
import { type ColumnType, rowInserts } from '../platform/storage/row-statements.ts';
import { type Statement, together } from '../platform/storage/statements.ts';
import type { Storage, Tx } from '../tables.ts';
import type { OutputRow } from './tables.ts';

/** Rows of output: written in slices, read in slices. */

const ROWS_PER_INSERT = 16;
/** Up to here bytes travel to PostgreSQL as one array of text, which doubles them; larger ones each as they are. */
const SMALL_BYTES = 4096;
const COLUMNS = {
  execution_id: 'text',
  stream: 'bigint',
  start: 'bigint',
  length: 'bigint',
  stored_at: 'bigint',
  gap_reason: 'text',
  bytes: 'bytea',
} as const satisfies Record<keyof OutputRow, ColumnType>;

export const outputRepository = (storage: Storage) => {
  const { kind } = storage;
  const insert = rowInserts(kind, 'commands_output', COLUMNS);
  const inserts = (rows: readonly OutputRow[]): Statement[] => {
    if (rows.length === 0) return [];
    if (kind === 'sqlite' || rows.every(({ bytes }) => (bytes?.length ?? 0) <= SMALL_BYTES)) return [insert(rows)];
    const statements: Statement[] = [];
    for (let at = 0; at < rows.length; at += ROWS_PER_INSERT) {
      const some = rows.slice(at, at + ROWS_PER_INSERT);
      const { sql: text, parameters } = storage.read.insertInto('commands_output').values(some).compile();
      statements.push({ sql: text, runs: [parameters] });
    }
    return statements;
  };
  return {
    inserts,
    insert: async (tx: Tx, rows: readonly OutputRow[]): Promise<void> => {
      await together(tx, inserts(rows));
    },

    /** What an output push needs to know of its execution; locked. */
    target: (tx: Tx, nodeUid: string, execution: { id: string } | { commandId: string; attempt: number }) => {
      const query = tx
        .selectFrom('commands_executions')
        .innerJoin('commands', 'commands.id', 'commands_executions.command_id')
        .select([
          'commands_executions.id',
          'command_id',
          'stdout_next',
          'stdout_missing',
          'stdout_bytes',
          'stderr_next',
          'stderr_missing',
          'stderr_bytes',
          'commands.output_limit_bytes',
        ])
        .where('node_uid', '=', nodeUid)
        .$if(kind === 'postgres', (locked) => locked.forUpdate('commands_executions'));
      const found =
        'id' in execution
          ? query.where('commands_executions.id', '=', execution.id)
          : query.where('command_id', '=', execution.commandId).where('attempt', '=', execution.attempt);
      return found.executeTakeFirst();
    },

    advance: async (
      tx: Tx,
      executionId: string,
      to: { next: { stdout: number; stderr: number }; missing: { stdout: number; stderr: number } },
      now: number,
    ): Promise<void> => {
      await tx
        .updateTable('commands_executions')
        .set({
          stdout_next: to.next.stdout,
          stdout_missing: to.missing.stdout,
          stderr_next: to.next.stderr,
          stderr_missing: to.missing.stderr,
          heard_at: now,
        })
        .where('id', '=', executionId)
        .execute();
    },

    /** Rows that reach beyond `from`, in order, at most `limit`: read a few at a time, each is up to 1 MiB. */
    slice: (executionId: string, stream: number, from: number, limit: number): Promise<OutputRow[]> =>
      storage.read
        .selectFrom('commands_output')
        .selectAll()
        .where('execution_id', '=', executionId)
        .where('stream', '=', stream)
        // The row that holds `from` begins at or before it: rows are contiguous, so it is the last such one.
        .where(
          'start',
          '>=',
          sql<number>`coalesce((select max(o.start) from commands_output as o
            where o.execution_id = ${executionId} and o.stream = ${stream} and o.start <= ${from}), 0)`,
        )
        .orderBy('start')
        .limit(limit)
        .execute()
        .then((rows) => rows.filter((row) => row.start + row.length > from)),

    gaps: (
      executionId: string,
      stream: number,
      from: number,
      limit: number,
    ): Promise<{ start: number; length: number; gap_reason: string | null }[]> =>
      storage.read
        .selectFrom('commands_output')
        .select(['start', 'length', 'gap_reason'])
        .where('execution_id', '=', executionId)
        .where('stream', '=', stream)
        .where('start', '>=', from)
        .where('gap_reason', 'is not', null)
        .orderBy('start')
        .limit(limit)
        .execute(),
  };
};
export type OutputRepository = ReturnType<typeof outputRepository>;
