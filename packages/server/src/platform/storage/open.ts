import type { FaultPoints } from '@aegis/protocol/fault-points';
import type { Kysely } from 'kysely';
import { asUnavailable } from './failures.ts';
import { GROUP_COMMIT_LIMITS } from './group-commit.ts';
import { type Migration, type MigrationsTable, migrate } from './migrate.ts';
import { openPostgres } from './postgres.ts';
import { openSqlite } from './sqlite.ts';
import type { Storage } from './storage.ts';

/** Opens the database and brings it to the newest migration.
 *  @throws AegisError config.invalid, http.unavailable */
export const openStorage = async <DB>(options: {
  /** PostgreSQL when given, else the SQLite file. */
  databaseUrl?: string | undefined;
  file: string;
  migrations: readonly Migration[];
  faults: FaultPoints;
  now: () => number;
  /** Writes that may wait for their commit. */
  maxWaiting?: number;
  onConnectionError?: (error: Error) => void;
}): Promise<Storage<DB>> => {
  const { databaseUrl, file, faults, onConnectionError } = options;
  const limits = { ...GROUP_COMMIT_LIMITS, ...(options.maxWaiting ? { queue: options.maxWaiting } : {}) };
  try {
    const { storage, writer } = databaseUrl
      ? openPostgres<DB>({ url: databaseUrl, faults, limits, ...(onConnectionError ? { onConnectionError } : {}) })
      : openSqlite<DB>({ file, faults, limits });
    try {
      // The migrations' own table is no table of a domain.
      const own = writer as unknown as Kysely<MigrationsTable>;
      await migrate({ kind: storage.kind, writer: own }, options.migrations, options.now);
    } catch (error) {
      await storage.close();
      throw error;
    }
    return storage;
  } catch (error) {
    throw asUnavailable(error);
  }
};
