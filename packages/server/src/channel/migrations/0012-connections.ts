import type { Migration } from '../../platform/storage/migrate.ts';

/** Which server process holds which node's connection: for the others. */
export const migration0012: Migration = {
  number: 12,
  name: '0012-connections',
  up: async (tx, { orderedText }) => {
    await tx.schema
      .createTable('agent_connections')
      .addColumn('agent_id', orderedText, (column) => column.primaryKey())
      .addColumn('session_token', 'text', (column) => column.notNull())
      .addColumn('server_id', orderedText, (column) => column.notNull())
      .addColumn('connected_at', 'bigint', (column) => column.notNull())
      .addColumn('expires_at', 'bigint', (column) => column.notNull())
      .addColumn('metadata', 'text', (column) => column.notNull())
      .execute();
    await tx.schema
      .createIndex('agent_connections_at')
      .on('agent_connections')
      .columns(['server_id', 'agent_id'])
      .execute();
    await tx.schema
      .createTable('channel_servers')
      .addColumn('id', orderedText, (column) => column.primaryKey())
      .addColumn('seen_at', 'bigint', (column) => column.notNull())
      .execute();
  },
};
