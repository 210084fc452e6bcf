import { closeSync, constants, openSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import Database from 'better-sqlite3';
import {
  CompiledQuery,
  type DatabaseConnection,
  type Dialect,
  type Driver,
  Kysely,
  type QueryResult,
  SqliteAdapter,
  SqliteIntrospector,
  SqliteQueryCompiler,
  sql,
} from 'kysely';
import { asUnavailable, nulInText } from './failures.ts';
import { type GroupCommitLimits, groupCommit } from './group-commit.ts';
import { type Statement, TOGETHER } from './statements.ts';
import type { Storage } from './storage.ts';

/** SQLite: one file in WAL mode with synchronous=FULL (a commit is an fsync), one connection that writes and one that only reads.
 *  Kysely's own SQLite driver prepares each statement anew; this one keeps them, which is most of a small query's cost. */

const STATEMENTS_KEPT = 300;
/** Other processes write too: `aegis server token` while the server runs. */
const BUSY_TIMEOUT_MS = 5000;
const BUSY_PAUSE_MS = 5;

export const openSqlite = <DB>(options: {
  file: string;
  faults: FaultPoints;
  limits?: GroupCommitLimits;
}): { storage: Storage<DB>; writer: Kysely<DB> } => {
  createPrivately(options.file);
  const main = new Database(options.file, { timeout: BUSY_TIMEOUT_MS });
  main.pragma('page_size = 16384'); // blobs of output: twice the throughput of 4 KiB pages; only a new file takes it
  main.pragma('journal_mode = WAL');
  main.pragma('synchronous = FULL');
  main.pragma('journal_size_limit = 67108864');
  const reader = new Database(options.file, { readonly: true, timeout: BUSY_TIMEOUT_MS });
  main.pragma('cache_size = -16384');
  reader.pragma('cache_size = -4096'); // every commit empties it
  for (const database of [main, reader]) database.pragma('foreign_keys = ON');
  // From here on `beginWaiting` waits for other writers: SQLite's own wait would hold up every request meanwhile.
  main.pragma('busy_timeout = 0');
  const onMain = statementsOf(main);
  const onReader = statementsOf(reader);
  // Another connection's commit empties the reader's page cache, and the writer commits hundreds of times a second: between two
  // transactions its own connection answers ten times as fast, and during one nobody shall see what is not committed.
  const forReading = (text: string) => (main.inTransaction ? onReader(text) : onMain(text));
  const writer = new Kysely<DB>({ dialect: dialectOn(main, onMain, new SqliteAdapter()) });
  const read = new Kysely<DB>({ dialect: dialectOn(reader, forReading, new UnlockedAdapter()) });
  const group = groupCommit({ kind: 'sqlite', writer }, options.faults, options.limits);
  return {
    writer,
    storage: {
      kind: 'sqlite',
      read,
      write: group.write,
      writeTogether: group.writeTogether,
      onCommit: group.onCommit,
      alone: (_, work) => work(), // one process has the file
      ping: async () => {
        const overloaded = group.isFull();
        try {
          await sql`select count(*) from sqlite_schema`.execute(read);
          await group.probe((tx) => sql`select 1`.execute(tx));
          return { overloaded };
        } catch (error) {
          throw asUnavailable(error);
        }
      },
      maintain: async () => {
        main.pragma('optimize');
        main.pragma('wal_checkpoint(PASSIVE)');
      },
      close: async () => {
        await group.drain();
        await read.destroy();
        await writer.destroy();
      },
    },
  };
};

/** The file holds hashes of tokens and the commands' output: nobody but its owner reads it. SQLite gives -wal and -shm its mode. */
const createPrivately = (file: string): void => {
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
  closeSync(openSync(file, flags, 0o600));
};

/** Each read is a statement of its own, begun and ended in one turn: nobody has to wait for the connection. Kysely's lock wakes all who wait
 *  each time it is let go, so that ten thousand polls that are woken at once cost fifty million turns. */
class UnlockedAdapter extends SqliteAdapter {
  override get supportsMultipleConnections(): boolean {
    return true;
  }
}

const dialectOn = (
  database: Database.Database,
  prepared: (text: string) => Database.Statement,
  adapter: SqliteAdapter,
): Dialect => ({
  createAdapter: () => adapter,
  createDriver: () => sqliteDriver(database, prepared),
  createIntrospector: (db) => new SqliteIntrospector(db),
  createQueryCompiler: () => new SqliteQueryCompiler(),
});

const sqliteDriver = (database: Database.Database, prepared: (text: string) => Database.Statement): Driver => {
  const connection = sqliteConnection(prepared);
  const run = async (text: string): Promise<void> => {
    await connection.executeQuery(CompiledQuery.raw(text));
  };
  return {
    init: async () => undefined,
    acquireConnection: async () => connection,
    releaseConnection: async () => undefined,
    beginTransaction: () => beginWaiting(() => run('begin immediate')),
    commitTransaction: () => run('commit'),
    rollbackTransaction: () => run('rollback'),
    destroy: async () => {
      database.close();
    },
  };
};

/** Immediate: a transaction that reads first and writes later could otherwise fail with SQLITE_BUSY in its middle. */
const beginWaiting = async (begin: () => Promise<void>): Promise<void> => {
  const deadline = performance.now() + BUSY_TIMEOUT_MS;
  for (;;) {
    try {
      return await begin();
    } catch (error) {
      const busy = error instanceof Database.SqliteError && error.code.startsWith('SQLITE_BUSY');
      if (!busy || performance.now() > deadline) throw error;
      await delay(BUSY_PAUSE_MS);
    }
  }
};

const refuseNul = (parameters: readonly unknown[]): void => {
  for (const value of parameters) if (typeof value === 'string' && value.includes('\0')) throw nulInText();
};

const statementsOf = (database: Database.Database): ((text: string) => Database.Statement) => {
  const kept = new Map<string, Database.Statement>();
  return (text) => {
    const known = kept.get(text);
    if (known) return known;
    if (kept.size >= STATEMENTS_KEPT) kept.delete(kept.keys().next().value ?? '');
    const statement = database.prepare(text);
    kept.set(text, statement);
    return statement;
  };
};

const sqliteConnection = (prepared: (text: string) => Database.Statement): DatabaseConnection => {
  const runAll = ({ sql: text, runs }: Statement): unknown[] => {
    const statement = prepared(text);
    const rows: unknown[] = [];
    for (const parameters of runs) {
      refuseNul(parameters);
      if (statement.reader) for (const row of statement.all(parameters)) rows.push(row);
      else statement.run(parameters);
    }
    return rows;
  };
  return {
    executeQuery: async <R>({ sql: text, parameters }: CompiledQuery): Promise<QueryResult<R>> => {
      if (text === TOGETHER) return { rows: (parameters as readonly Statement[]).map(runAll) as R[] };
      refuseNul(parameters);
      const statement = prepared(text);
      if (statement.reader) return { rows: statement.all(...parameters) as R[] };
      const { changes, lastInsertRowid } = statement.run(...parameters);
      return { numAffectedRows: BigInt(changes), insertId: BigInt(lastInsertRowid), rows: [] };
    },
    streamQuery: () => {
      throw new Error('queries are not streamed: one that is open blocks the connection; read in pages');
    },
  };
};
