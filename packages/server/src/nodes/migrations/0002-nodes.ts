import { sql } from 'kysely';
import type { Migration } from '../../platform/storage/migrate.ts';

export const migration0002: Migration = {
  number: 2,
  name: '0002-nodes',
  up: async (tx, { blob, orderedText }) => {
    await tx.schema
      .createTable('nodes')
      .addColumn('uid', 'text', (column) => column.primaryKey())
      .addColumn('name', orderedText, (column) => column.notNull())
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('maintenance', 'integer', (column) => column.notNull())
      .addColumn('keyless', 'integer', (column) => column.notNull())
      .addColumn('key_id', 'text')
      .addColumn('public_key', blob)
      .addColumn('sealing_key', blob)
      .addColumn('site', 'text')
      .addColumn('labels', 'text', (column) => column.notNull())
      .addColumn('attrs', 'text', (column) => column.notNull())
      .addColumn('capabilities', 'text', (column) => column.notNull())
      .addColumn('version', 'text')
      .addColumn('os', 'text')
      .addColumn('kernel', 'text')
      .addColumn('container_engine', 'text')
      .addColumn('last_seen', 'bigint')
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('updated_at', 'bigint', (column) => column.notNull())
      .execute();
    // A retired node's name may be given again; its key never is.
    await sql`create unique index nodes_name on nodes (name) where state <> 'retired'`.execute(tx);
    await sql`create unique index nodes_key on nodes (key_id)`.execute(tx);

    await tx.schema
      .createTable('nodes_registrations')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('challenge', blob, (column) => column.notNull())
      .addColumn('init', 'text', (column) => column.notNull())
      .addColumn('tokenless', 'integer', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('expires_at', 'bigint', (column) => column.notNull())
      .addColumn('completed_at', 'bigint')
      .addColumn('node_uid', 'text')
      .execute();
    await tx.schema.createIndex('nodes_registrations_expires').on('nodes_registrations').column('expires_at').execute();

    await tx.schema
      .createTable('nodes_token_nonces')
      .addColumn('node_uid', 'text', (column) => column.notNull())
      .addColumn('nonce', 'text', (column) => column.notNull())
      .addColumn('expires_at', 'bigint', (column) => column.notNull())
      .addPrimaryKeyConstraint('nodes_token_nonces_pk', ['node_uid', 'nonce'])
      .execute();
  },
};
