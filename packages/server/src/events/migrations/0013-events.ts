import { sql } from 'kysely';
import type { Migration } from '../../platform/storage/migrate.ts';

export const migration0013: Migration = {
  number: 13,
  name: '0013-events',
  up: async (tx, { kind, orderedText }) => {
    // On SQLite the one process that writes counts them itself.
    const id = kind === 'sqlite' ? sql`integer primary key` : sql`bigserial primary key`;
    await sql`create table events (
      id ${id}, at bigint not null, type text not null, node_uid text, node_name text, data text not null)`.execute(tx);
    await tx.schema
      .createTable('events_floor')
      .addColumn('id', 'integer', (column) => column.primaryKey())
      .addColumn('removed_through', 'bigint', (column) => column.notNull())
      .execute();
    await tx.insertInto('events_floor').values({ id: 1, removed_through: 0 }).execute();
    await tx.schema
      .createTable('events_marks')
      .addColumn('id', 'bigint', (column) => column.primaryKey())
      .addColumn('at', 'bigint', (column) => column.notNull())
      .addColumn('total', 'bigint', (column) => column.notNull())
      .execute();
    await tx.schema
      .createTable('events_presence')
      .addColumn('node_uid', orderedText, (column) => column.primaryKey())
      .addColumn('carrier', 'text')
      .addColumn('session', 'text', (column) => column.notNull())
      .execute();
  },
};
