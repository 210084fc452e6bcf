import type { Migration } from '../../platform/storage/migrate.ts';

export const migration0001: Migration = {
  number: 1,
  name: '0001-access',
  up: async (tx, { blob }) => {
    await tx.schema
      .createTable('access_fleet')
      .addColumn('fleet', 'text', (column) => column.primaryKey())
      .addColumn('root_fingerprint', 'text', (column) => column.notNull())
      .execute();
    await tx.schema
      .createTable('access_tokens')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('name', 'text', (column) => column.notNull())
      .addColumn('role', 'text', (column) => column.notNull())
      .addColumn('secret_sha256', blob, (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('expires_at', 'bigint')
      .addColumn('revoked_at', 'bigint')
      .execute();
    await tx.schema
      .createTable('access_join_tokens')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('uses', 'integer', (column) => column.notNull())
      .addColumn('used', 'integer', (column) => column.notNull())
      .addColumn('site', 'text')
      .addColumn('labels', 'text', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('expires_at', 'bigint', (column) => column.notNull())
      .addColumn('revoked_at', 'bigint')
      .execute();
  },
};
