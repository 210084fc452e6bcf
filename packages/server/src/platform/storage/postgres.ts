import type { FaultPoints } from '@aegis/protocol/fault-points';
import { Kysely, PostgresDialect, type PostgresPool, type PostgresPoolClient, sql } from 'kysely';
import pg from 'pg';
import { asUnavailable } from './failures.ts';
import { type GroupCommitLimits, groupCommit, NEXT_WORK, SAVEPOINT } from './group-commit.ts';
import { aloneOn } from './postgres-alone.ts';
import { type Statement, TOGETHER } from './statements.ts';
import type { Storage } from './storage.ts';

/** PostgreSQL: a pool for reads and one connection for the group commits. A broken connection is thrown away and the next use
 *  makes a new one, so a restarted server is nothing to recover from. */

const STATEMENTS_NAMED = 500;
/** A server process whose machine is gone says no goodbye: what it has locked is free again after a minute, not after two hours. */
const GONE = '-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3';
/** A plan that is kept from when a table was nearly empty reads all of it, until the next analysis minutes later: with hundreds
 *  of reports a second that is most of what PostgreSQL does. Everything frequent has an index; the rest scans all the same, and must not
 *  be compiled for it: forbidden scans count as so dear that PostgreSQL would compile a query of microseconds for half a second. */
const BY_INDEX = '-c enable_seqscan=off -c jit=off';

export const openPostgres = <DB>(options: {
  url: string;
  faults: FaultPoints;
  limits?: GroupCommitLimits;
  readers?: number;
  onConnectionError?: (error: Error) => void;
}): { storage: Storage<DB>; writer: Kysely<DB> } => {
  const connect = (name: string, max: number, settings: string) => {
    const pool = new pg.Pool({
      connectionString: options.url,
      application_name: name,
      max,
      options: settings,
      connectionTimeoutMillis: 5000,
      idleTimeoutMillis: 60_000,
      keepAlive: true,
      pipeline: true, // lets what is sent ahead travel together with what follows
      types,
    });
    // A connection that breaks fails whatever query it had and is dropped. The event itself must be heard all the same, on the
    // pool for idle ones and on each client while it is in use: unheard it would end the process.
    pool.on('error', (error) => options.onConnectionError?.(error));
    pool.on('connect', (client) => client.on('error', () => undefined));
    return new Kysely<DB>({ dialect: new PostgresDialect({ pool: withNamedStatements(pool) }) });
  };
  const read = connect('aegis-read', options.readers ?? 8, `-c statement_timeout=30s ${GONE} ${BY_INDEX}`);
  const writer = connect(
    'aegis-write',
    1,
    `-c synchronous_commit=on -c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s ${GONE} ${BY_INDEX}`,
  );
  const group = groupCommit({ kind: 'postgres', writer }, options.faults, options.limits);
  return {
    writer,
    storage: {
      kind: 'postgres',
      read,
      write: group.write,
      writeTogether: group.writeTogether,
      onCommit: group.onCommit,
      alone: aloneOn(read),
      ping: async () => {
        const overloaded = group.isFull();
        try {
          await sql`select 1`.execute(read);
          await group.probe((tx) => sql`select 1`.execute(tx));
          return { overloaded };
        } catch (error) {
          throw asUnavailable(error);
        }
      },
      maintain: async () => undefined, // autovacuum does it
      close: async () => {
        await group.drain();
        await Promise.all([read.destroy(), writer.destroy()]);
      },
    },
  };
};

const INT8 = 20;
const NUMERIC = 1700; // what sum() of int8 gives
/** Counts, sizes and milliseconds stay far below 2^53: numbers, as SQLite gives them. */
const types = {
  getTypeParser: ((id: number, format?: 'text' | 'binary') =>
    id === INT8 || id === NUMERIC
      ? Number
      : pg.types.getTypeParser(id, format as 'text')) as typeof pg.types.getTypeParser,
};

/** At the beginning and between two works nothing needs an answer before the next query: waiting for it would cost a round trip
 *  each time. PostgreSQL answers in order, so when one of these fails that is known before the commit, which then fails for the
 *  whole batch. */
const SENT_AHEAD: ReadonlySet<string> = new Set([
  'begin',
  ...[SAVEPOINT, ...NEXT_WORK.postgres].map(({ sql: text }) => text),
]);
const NOTHING = { command: 'SELECT', rowCount: 0, rows: [] };

/** A named statement is parsed and planned once per connection. Names are given to the first texts that come; there are few. */
const withNamedStatements = (pool: pg.Pool): PostgresPool => {
  const names = new Map<string, string>();
  const nameOf = (text: string): string | undefined => {
    const known = names.get(text);
    if (known || names.size >= STATEMENTS_NAMED) return known;
    const name = `aegis_${names.size}`;
    names.set(text, name);
    return name;
  };
  const wrapped = new WeakMap<pg.PoolClient, PostgresPoolClient>();
  const wrap = (client: pg.PoolClient): PostgresPoolClient => {
    let failedAhead: unknown = null;
    const run = (text: string, parameters: readonly unknown[]) => {
      const name = parameters.length > 0 ? nameOf(text) : undefined;
      return client.query({ text, values: [...parameters], ...(name ? { name } : {}) });
    };
    // Sent without waiting in between; when one fails, those behind it fail too, and the first error is the one to tell.
    const runTogether = async (statements: readonly Statement[]) => {
      const results = await Promise.all(
        statements.map(({ sql: text, runs }) => Promise.all(runs.map((parameters) => run(text, parameters)))),
      );
      return { ...NOTHING, rows: results.map((all) => all.flatMap(({ rows }) => rows)) };
    };
    const query = async (text: unknown, values?: readonly unknown[]) => {
      if (typeof text !== 'string') throw new Error('queries are not streamed: read in pages');
      if (text === TOGETHER) return runTogether(values as readonly Statement[]);
      if (text === 'begin') failedAhead = null;
      if (text === 'commit' && failedAhead !== null) throw failedAhead;
      if (SENT_AHEAD.has(text)) {
        client.query(text).catch((error: unknown) => {
          failedAhead ??= error;
        });
        return NOTHING;
      }
      return run(text, values ?? []);
    };
    // Only the form of query() that Kysely uses without a cursor.
    return { query, release: (destroy?: boolean) => client.release(destroy) } as unknown as PostgresPoolClient;
  };
  return {
    options: pool.options,
    end: () => pool.end(),
    connect: async () => {
      const client = await pool.connect();
      let known = wrapped.get(client);
      if (!known) {
        known = wrap(client);
        wrapped.set(client, known);
      }
      return known;
    },
  };
};
