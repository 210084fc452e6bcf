import type { Migration } from '../../platform/storage/migrate.ts';

/** Seed 004's keyless agents: their API keys, what they say of themselves, and nodes whose credentials are refused for a while. */
export const migration0008: Migration = {
  number: 8,
  name: '0008-agents',
  up: async (tx, { orderedText }) => {
    await tx.schema.alterTable('nodes').addColumn('deactivated_at', 'bigint').execute();
    await tx.schema.alterTable('nodes').addColumn('said_status', 'text').execute();
    await tx.schema
      .createTable('nodes_api_keys')
      .addColumn('key_sha256', orderedText, (column) => column.primaryKey())
      .addColumn('node_uid', orderedText, (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('created_by', 'text', (column) => column.notNull())
      .execute();
  },
};
