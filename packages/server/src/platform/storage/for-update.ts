import type { StorageKind } from './storage.ts';

/** Locks the rows that `query` finds until the transaction ends: for rows that are read to be changed. SQLite has one writer
 *  and needs no such thing; on PostgreSQL other server processes write at the same time. */
export const forUpdate = <Q extends { forUpdate(): Q }>({ kind }: { kind: StorageKind }, query: Q): Q =>
  kind === 'postgres' ? query.forUpdate() : query;
