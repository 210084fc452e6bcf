import type { Compilable, CompiledQuery } from 'kysely';
import type { Executor, Statement } from './statements.ts';

/** A Kysely query that is built and compiled once: doing it for each execution costs more than most of these queries take. */

/** Stands in the compiled query where a parameter belongs. */
class Parameter {
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}

export interface CompiledOnce<P, O> {
  (db: Executor, parameters: P): Promise<O[]>;
  /** For `together`. */
  statement(parameters: P): Statement;
}

/** @param build is called at the first use with stand-ins: they may go where Kysely takes a value, and nowhere else (no
 *  arithmetic, no lists, no null) */
export const compiledOnce = <P extends Readonly<Record<string, string | number>>, O>(
  build: (parameters: P) => Compilable<O>,
): CompiledOnce<P, O> => {
  let query: CompiledQuery<O> | undefined;
  const standIns = new Proxy({}, { get: (_, name) => new Parameter(String(name)) }) as P;
  const bound = (parameters: P): CompiledQuery<O> => {
    query ??= build(standIns).compile();
    const values = query.parameters.map((one) => (one instanceof Parameter ? parameters[one.name] : one));
    return { ...query, parameters: values };
  };
  const run = async (db: Executor, parameters: P): Promise<O[]> => (await db.executeQuery(bound(parameters))).rows;
  return Object.assign(run, {
    statement: (parameters: P): Statement => {
      const { sql, parameters: values } = bound(parameters);
      return { sql, runs: [values] };
    },
  });
};
