/** platform/storage: the server's one database, SQLite or PostgreSQL, behind one interface. Repositories call it.
 *  Invariant: a promise that `write` gave resolves only after its transaction is durable; works that share a commit fail alone.
 *  It must not know a domain: tables and migrations come in from outside. */
import type { Kysely, Transaction } from 'kysely';

export type StorageKind = 'sqlite' | 'postgres';

export interface Storage<DB> {
  readonly kind: StorageKind;
  /** Reads outside any transaction; each statement sees what was committed when it began. */
  readonly read: Kysely<DB>;
  /** Runs `work` in a transaction that it may share with others (group commit), and resolves once that is durable.
   *  `work` must do nothing but database calls on `tx`, await each of them, and let SQL errors through: after one, PostgreSQL
   *  refuses the rest of the work (use `onConflict` instead of catching). When it throws, only its own changes are undone; where the
   *  database ended it because another server process and it held one another up, it is done anew.
   *  @throws AegisError http.unavailable (503) when the queue is full, the disk is, or the database cannot be reached or a
   *  commit's outcome is unknown: the caller may send the same again */
  write<T>(label: string, work: (tx: Transaction<DB>) => Promise<T>): Promise<T>;
  /** As `write`, for works of one kind whose effort is mostly per statement: those that come to share a transaction are given to
   *  `work` together, in the order in which they came, and it answers each. When it throws, each is done once more for itself.
   *  Their order to works of other kinds in that transaction is any: none of them had been answered. With `last` they are done after
   *  all the others of it: what they lock is held for the commit alone, and whoever holds it waits for no other lock. */
  writeTogether<I, O>(
    label: string,
    work: (tx: Transaction<DB>, items: readonly I[]) => Promise<readonly O[]>,
    options?: { last?: true },
  ): (item: I) => Promise<O>;
  /** Does `work` while no other server process on the database does work of this name; waits for its turn up to half a minute. Works
   *  of one name within this process must not overlap (`OneAtATime`): each holds a connection.
   *  @throws AegisError http.unavailable when the turn did not come */
  alone<T>(name: string, work: () => Promise<T>): Promise<T>;
  /** Calls `listener` after each of this process's transactions that is durable, before anybody is answered. It must not throw. */
  onCommit(listener: () => void): void;
  /** Answers when the database works, for health, and whether it has more to do than it can.
   *  @throws AegisError http.unavailable when it does not work */
  ping(): Promise<{ overloaded: boolean }>;
  /** Housekeeping that the database does not do by itself; called now and then by a loop, never while a request waits. */
  maintain(): Promise<void>;
  /** Finishes what is queued, refuses what comes, closes the connections. */
  close(): Promise<void>;
}
