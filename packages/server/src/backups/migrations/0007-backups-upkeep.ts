import { sql } from 'kysely';
import type { Migration } from '../../platform/storage/migrate.ts';

/** What follows runs: removals that retention decided, incidents, and alerts on their way. */
export const migration0007: Migration = {
  number: 7,
  name: '0007-backups-upkeep',
  up: async (tx, { orderedText }) => {
    await tx.schema
      .createTable('backups_removals')
      .addColumn('run_id', orderedText, (column) => column.primaryKey())
      .addColumn('node_uid', orderedText)
      .addColumn('remover', 'text', (column) => column.notNull())
      .addColumn('decided_at', 'bigint', (column) => column.notNull())
      .addColumn('next_at', 'bigint', (column) => column.notNull())
      .addColumn('tries', 'integer', (column) => column.notNull())
      .addColumn('told_in', orderedText)
      .addColumn('done_at', 'bigint')
      .addColumn('reason', 'text', (column) => column.notNull())
      .addColumn('error', 'text')
      .execute();
    await sql`create index backups_removals_due on backups_removals (next_at, run_id)
      where done_at is null and remover <> 'node'`.execute(tx);
    await sql`create index backups_removals_of_node on backups_removals (node_uid, run_id) where remover = 'node'`.execute(
      tx,
    );

    await tx.schema
      .createTable('backups_incidents')
      .addColumn('config_id', orderedText, (column) => column.notNull())
      .addColumn('node_uid', orderedText, (column) => column.notNull())
      .addColumn('kind', 'text', (column) => column.notNull())
      .addColumn('opened_at', 'bigint', (column) => column.notNull())
      .addPrimaryKeyConstraint('backups_incidents_pk', ['config_id', 'node_uid', 'kind'])
      .execute();

    await tx.schema
      .createTable('backups_alerts')
      .addColumn('id', orderedText, (column) => column.primaryKey())
      .addColumn('made_at', 'bigint', (column) => column.notNull())
      .addColumn('next_at', 'bigint', (column) => column.notNull())
      .addColumn('tries', 'integer', (column) => column.notNull())
      .addColumn('target', 'text', (column) => column.notNull())
      .addColumn('body', 'text', (column) => column.notNull())
      .addColumn('error', 'text')
      .execute();
    await tx.schema.createIndex('backups_alerts_due').on('backups_alerts').columns(['next_at', 'id']).execute();
  },
};
