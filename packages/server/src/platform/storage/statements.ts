import { CompiledQuery, type QueryResult } from 'kysely';

/** Statements beneath Kysely, for the few that run thousands of times a second: the text is made once, and several of them go
 *  to the database in one call, in order. SQLite runs each of them row by row, prepared (a key look-up takes it 6 µs with a bound
 *  parameter, 60 through a JSON list); PostgreSQL gets whole columns as arrays, all statements in one round trip. */

export interface Statement {
  readonly sql: string;
  /** One list of parameters per execution; the rows of all of them are one result. */
  readonly runs: readonly (readonly unknown[])[];
}
export interface Executor {
  executeQuery<R>(query: CompiledQuery<R>): Promise<QueryResult<R>>;
}

/** What the drivers know it by: Kysely hands text and parameters through as they are. */
export const TOGETHER = '-- statements together';
const template = CompiledQuery.raw(TOGETHER);

/** Runs the statements one after the other and answers each one's rows. On PostgreSQL nothing waits in between, so what a
 *  statement needs of one before it has to be in its SQL. */
export const together = async (db: Executor, statements: readonly Statement[]): Promise<unknown[][]> => {
  if (statements.length === 0) return [];
  const { rows } = await db.executeQuery<unknown[]>({ ...template, parameters: statements } as CompiledQuery<
    unknown[]
  >);
  return rows;
};
