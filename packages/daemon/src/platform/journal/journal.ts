/** platform/journal: the daemon's one SQLite file. Domains hold the SQL (their repositories), the journal holds the commits.
 *  Invariant: whatever `transaction` or `group` returned from is on disk (WAL, synchronous=FULL); whatever they threw for
 *  changed nothing. One process at a time (locking_mode=EXCLUSIVE).
 *  Must not: know a table of a domain, or answer for a commit that did not happen. */
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import Database from 'better-sqlite3';

export interface Migration {
  /** Rises by one. Forward only, and additive: the previous release must still be able to read the file. */
  readonly version: number;
  readonly name: string;
  readonly sql: string;
}

export interface Journal {
  readonly db: Database.Database;
  /** Commits before it returns. @throws AegisError journal.full | journal.failed, with nothing changed */
  transaction<T>(label: string, change: () => T): T;
  /** The same, together with everything else that comes in this turn of the event loop: one fsync for all. */
  group<T>(label: string, change: () => T): Promise<T>;
  /** The same, whenever a group is committed anyway, at the latest after 50 ms. For what may be lost and found again. */
  lazily(label: string, change: () => void): Promise<void>;
  /** Throws when the file cannot be read or locked any more. Writes nothing: a full disk is no reason to be restarted. */
  prove(): void;
  fileBytes(): number;
  /** Commits what is waiting and closes the file. */
  close(): void;
}

export interface JournalOptions {
  path: string;
  migrations: readonly Migration[];
  faults: FaultPoints;
  /** Bound of the file; reaching it answers journal.full. */
  maxBytes: number;
}

const LAZY_MS = 50;
const MAX_REST_MS = 20;
const PAGE_BYTES = 4096;

interface Waiting {
  label: string;
  change: () => unknown;
  resolve: (value: unknown) => void;
  reject: (error: unknown) => void;
}

export const openJournal = ({ path, migrations, faults, maxBytes }: JournalOptions): Journal => {
  const db = open(path, maxBytes);
  try {
    migrate(db, migrations, faults);
  } catch (error) {
    db.close();
    throw typedError(error, path);
  }
  const begin = db.prepare('BEGIN IMMEDIATE');
  const commit = db.prepare('COMMIT');
  const rollback = db.prepare('ROLLBACK');
  const pages = db.prepare<[], number>('PRAGMA page_count').pluck();

  const transact = <T>(labels: Iterable<string>, change: () => T): T => {
    try {
      begin.run();
      const result = change();
      for (const label of labels) faults.at(`daemon.before-commit.${label}`);
      commit.run();
      for (const label of labels) faults.at(`daemon.after-commit.${label}`);
      return result;
    } catch (error) {
      if (db.inTransaction) rollback.run();
      throw typedError(error, path);
    }
  };

  let waiting: Waiting[] = [];
  let soon: NodeJS.Immediate | null = null;
  let timer: NodeJS.Timeout | null = null;
  /** Something waits that is not lazy. */
  let hasty = false;
  let lastEnd = 0;
  let lastMs = 0;
  const flush = (): void => {
    if (soon) clearImmediate(soon);
    if (timer) clearTimeout(timer);
    soon = timer = null;
    hasty = false;
    const batch = waiting;
    if (batch.length === 0) return;
    waiting = [];
    let results: unknown[];
    const begun = performance.now();
    try {
      results = transact(new Set(batch.map((one) => one.label)), () => batch.map((one) => one.change()));
    } catch (error) {
      for (const one of batch) one.reject(error);
      return;
    } finally {
      lastEnd = performance.now();
      lastMs = lastEnd - begun;
    }
    for (const [index, one] of batch.entries()) one.resolve(results[index]);
  };
  const enqueue = <T>(label: string, change: () => T): Promise<T> =>
    new Promise<T>((resolve, reject) => {
      waiting.push({ label, change, resolve: resolve as (value: unknown) => void, reject });
    });
  /** At once when the disk is quick. On a busy one at most every other moment goes into commits, and more share each. */
  const flushSoon = (): void => {
    if (soon) return;
    const restMs = Math.min(lastEnd + lastMs - performance.now(), MAX_REST_MS);
    if (timer) clearTimeout(timer);
    timer = null;
    if (restMs > 0.5) timer = setTimeout(flush, restMs);
    else soon = setImmediate(flush);
  };

  return {
    db,
    transaction: (label, change) => transact([label], change),
    group: (label, change) => {
      if (!hasty) flushSoon();
      hasty = true;
      return enqueue(label, change);
    },
    lazily: (label, change) => {
      if (!soon) timer ??= setTimeout(flush, LAZY_MS);
      return enqueue(label, change);
    },
    prove: () => {
      begin.run();
      rollback.run();
    },
    fileBytes: () => (pages.get() ?? 0) * PAGE_BYTES,
    close: () => {
      if (!db.open) return;
      flush();
      db.close();
    },
  };
};

const open = (path: string, maxBytes: number): Database.Database => {
  const db = new Database(path, { timeout: 2000 });
  try {
    db.pragma('locking_mode = EXCLUSIVE');
    db.pragma(`page_size = ${PAGE_BYTES}`);
    db.pragma('journal_mode = WAL');
    db.pragma('synchronous = FULL');
    db.pragma('cache_size = -2000');
    db.pragma('temp_store = MEMORY');
    db.pragma('journal_size_limit = 4194304');
    db.pragma('foreign_keys = ON');
    db.pragma(`max_page_count = ${Math.ceil(maxBytes / PAGE_BYTES)}`);
    db.exec('BEGIN EXCLUSIVE; COMMIT'); // takes the lock now, so that a second daemon fails here and not later
  } catch (error) {
    db.close();
    throw typedError(error, path);
  }
  return db;
};

const migrate = (db: Database.Database, migrations: readonly Migration[], faults: FaultPoints): void => {
  const now = Number(db.pragma('user_version', { simple: true }));
  for (const { version, sql } of migrations) {
    if (version <= now) continue;
    db.exec('BEGIN IMMEDIATE');
    try {
      db.exec(sql);
      db.pragma(`user_version = ${version}`);
      faults.at(`daemon.before-commit.migration-${version}`);
      db.exec('COMMIT');
      faults.at(`daemon.after-commit.migration-${version}`);
    } catch (error) {
      if (db.inTransaction) db.exec('ROLLBACK');
      throw error;
    }
  }
};

const typedError = (error: unknown, path: string): unknown => {
  if (!(error instanceof Database.SqliteError)) return error;
  if (error.code === 'SQLITE_FULL')
    return new AegisError(
      'journal.full',
      `There is no room for the journal ${path}: free disk space, or raise journal_max_bytes.`,
      {
        cause: error,
      },
    );
  if (error.code.startsWith('SQLITE_BUSY'))
    return new AegisError(
      'journal.failed',
      `Another daemon uses ${path}: stop it, or give this one its own --data-dir.`,
      {
        cause: error,
      },
    );
  const hint = error.code.startsWith('SQLITE_IOERR') ? 'check the disk that holds it' : 'see the log for the cause';
  return new AegisError('journal.failed', `The journal ${path} cannot be used (${error.code}): ${hint}.`, {
    cause: error,
  });
};
