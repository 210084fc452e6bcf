import { AegisError } from '@aegis/protocol/errors';
import { type Kysely, type RawBuilder, sql, type Transaction } from 'kysely';
import type { StorageKind } from './storage.ts';

/** Numbered migrations, forward only. All that are missing run in one transaction under a lock, so that several processes may
 *  start at once and a crash in the middle leaves the database as it was. */

/** The few column types whose names differ. Elsewhere: text, integer, bigint; times are bigint milliseconds, booleans integer 0/1. */
export interface ColumnTypes {
  kind: StorageKind;
  blob: 'blob' | 'bytea';
  /** Text that is ordered by its bytes on both databases, as pages by name need it. */
  orderedText: RawBuilder<unknown>;
}

export interface Migration {
  number: number;
  name: string;
  up(tx: Transaction<Record<string, Record<string, unknown>>>, types: ColumnTypes): Promise<void>;
}

const LOCK = 0x61656769; // any number that is ours: "aegi"

const columnTypes = (kind: StorageKind): ColumnTypes =>
  kind === 'sqlite'
    ? { kind, blob: 'blob', orderedText: sql`text` }
    : { kind, blob: 'bytea', orderedText: sql`text collate "C"` };

export interface MigrationsTable {
  migrations: { number: number; name: string; applied_at: number };
}

/** Brings the database to the newest of `migrations` and says which ones ran.
 *  @throws AegisError config.invalid when the database is newer than the program, or another program's */
export const migrate = async (
  database: { kind: StorageKind; writer: Kysely<MigrationsTable> },
  migrations: readonly Migration[],
  now: () => number,
): Promise<string[]> => {
  const ordered = inOrder(migrations);
  const tx = await database.writer.startTransaction().execute();
  try {
    if (database.kind === 'postgres') await sql`select pg_advisory_xact_lock(${LOCK})`.execute(tx);
    await tx.schema
      .createTable('migrations')
      .ifNotExists()
      .addColumn('number', 'integer', (column) => column.primaryKey())
      .addColumn('name', 'text', (column) => column.notNull())
      .addColumn('applied_at', 'bigint', (column) => column.notNull())
      .execute();
    const applied = await tx.selectFrom('migrations').selectAll().orderBy('number').execute();
    refuseOthers(applied, ordered);
    const missing = ordered.slice(applied.length);
    for (const { number, name, up } of missing) {
      await up(tx as unknown as Parameters<Migration['up']>[0], columnTypes(database.kind));
      await tx.insertInto('migrations').values({ number, name, applied_at: now() }).execute();
    }
    await tx.commit().execute();
    return missing.map((migration) => migration.name);
  } catch (error) {
    if (!tx.isRolledBack)
      await tx
        .rollback()
        .execute()
        .catch(() => undefined); // the first error is the one to tell
    throw error;
  }
};

/** Which migrations the database has, oldest first, and when each ran (ms). */
export const appliedMigrations = <DB>(read: Kysely<DB>): Promise<MigrationsTable['migrations'][]> =>
  (read as unknown as Kysely<MigrationsTable>).selectFrom('migrations').selectAll().orderBy('number').execute();

const inOrder = (migrations: readonly Migration[]): Migration[] => {
  const ordered = [...migrations].sort((a, b) => a.number - b.number);
  ordered.forEach(({ number, name }, at) => {
    if (number !== at + 1) throw new Error(`migration '${name}' has the number ${number}, expected ${at + 1}`);
  });
  return ordered;
};

const refuseOthers = (applied: readonly { number: number; name: string }[], ordered: readonly Migration[]): void => {
  applied.forEach(({ number, name }, at) => {
    const known = ordered[at];
    if (known?.name === name && known.number === number) return;
    throw new AegisError(
      'config.invalid',
      known
        ? `The database has the migration ${number} '${name}', this program has '${known.name}' there: it is not this program's database.`
        : `The database is newer than this program (it has the migration ${number} '${name}'). Start the newer release.`,
    );
  });
};
