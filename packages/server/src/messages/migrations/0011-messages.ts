import { sql } from 'kysely';
import type { Migration } from '../../platform/storage/migrate.ts';

export const migration0011: Migration = {
  number: 11,
  name: '0011-messages',
  up: async (tx, { orderedText }) => {
    await tx.schema
      .createTable('message_queue')
      .addColumn('id', orderedText, (column) => column.notNull())
      .addColumn('agent_id', orderedText, (column) => column.notNull())
      .addColumn('agent_name', 'text', (column) => column.notNull())
      .addColumn('channel', orderedText, (column) => column.notNull())
      .addColumn('message_type', 'text', (column) => column.notNull())
      .addColumn('encrypted_payload', 'text', (column) => column.notNull())
      .addColumn('nonce', 'text', (column) => column.notNull())
      .addColumn('status', 'text', (column) => column.notNull())
      .addColumn('retry_count', 'integer', (column) => column.notNull())
      .addColumn('max_retries', 'integer', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('processed_at', 'bigint')
      .addColumn('expires_at', 'bigint', (column) => column.notNull())
      .addColumn('error_code', 'text')
      .addColumn('encrypted_outcome', 'text')
      .addColumn('outcome_nonce', 'text')
      .addPrimaryKeyConstraint('message_queue_pk', ['agent_id', 'id'])
      .execute();
    await sql`create index message_queue_waiting on message_queue (agent_id, channel, id) where processed_at is null`.execute(
      tx,
    );
    await sql`create index message_queue_expiring on message_queue (expires_at) where processed_at is null`.execute(tx);
    await sql`create index message_queue_ended on message_queue (processed_at) where processed_at is not null`.execute(
      tx,
    );
  },
};
