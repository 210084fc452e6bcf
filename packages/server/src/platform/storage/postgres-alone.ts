import { type Kysely, sql } from 'kysely';
import { asUnavailable } from './failures.ts';
import type { Storage } from './storage.ts';

/** Advisory locks of PostgreSQL, each held by a connection while a work lasts: they end with it, however it ends. */
export const aloneOn =
  <DB>(pool: Kysely<DB>): Storage<DB>['alone'] =>
  async (name, work) =>
    pool.connection().execute(async (db) => {
      const key = sql`hashtextextended(${`aegis:${name}`}, 0)`;
      try {
        await sql`select pg_advisory_lock(${key})`.execute(db);
      } catch (error) {
        throw asUnavailable(error);
      }
      try {
        return await work();
      } finally {
        // Fails when the connection broke: then the lock went with it.
        await sql`select pg_advisory_unlock(${key})`.execute(db).catch(() => undefined);
      }
    });
