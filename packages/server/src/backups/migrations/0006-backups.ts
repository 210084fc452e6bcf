import { sql } from 'kysely';
import type { Migration } from '../../platform/storage/migrate.ts';

export const migration0006: Migration = {
  number: 6,
  name: '0006-backups',
  up: async (tx, { kind, orderedText }) => {
    const keyed = <T extends { modifyEnd(end: ReturnType<typeof sql>): T }>(table: T): T =>
      kind === 'sqlite' ? table.modifyEnd(sql`without rowid`) : table;

    await tx.schema
      .createTable('backups_configs')
      .addColumn('id', orderedText, (column) => column.primaryKey())
      .addColumn('name', orderedText, (column) => column.notNull())
      .addColumn('revision', 'bigint', (column) => column.notNull())
      .addColumn('mode', 'text', (column) => column.notNull())
      .addColumn('destination_id', orderedText, (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('created_by', 'text', (column) => column.notNull())
      .addColumn('updated_at', 'bigint', (column) => column.notNull())
      .addColumn('updated_by', 'text', (column) => column.notNull())
      .addColumn('deleted_at', 'bigint')
      // The long ones last: SQLite reads a row's columns in their order.
      .addColumn('targets', 'text', (column) => column.notNull())
      .addColumn('body', 'text', (column) => column.notNull())
      .addColumn('spec', 'text', (column) => column.notNull())
      .execute();
    await sql`create unique index backups_configs_name on backups_configs (name) where deleted_at is null`.execute(tx);

    await tx.schema
      .createTable('backups_destinations')
      .addColumn('id', orderedText, (column) => column.primaryKey())
      .addColumn('config_id', orderedText, (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('access_key_id', 'text')
      .addColumn('credentials', 'text')
      .addColumn('destination', 'text', (column) => column.notNull())
      .addColumn('probe', 'text')
      .execute();
    await tx.schema
      .createIndex('backups_destinations_config')
      .on('backups_destinations')
      .columns(['config_id', 'id'])
      .execute();

    await tx.schema
      .createTable('backups_assignments')
      .addColumn('node_uid', orderedText, (column) => column.notNull())
      .addColumn('config_id', orderedText, (column) => column.notNull())
      .addColumn('node_name', orderedText, (column) => column.notNull())
      .addColumn('generation', 'bigint', (column) => column.notNull())
      .addColumn('present', 'integer', (column) => column.notNull())
      .addColumn('bytes', 'bigint', (column) => column.notNull())
      .addColumn('assigned_at', 'bigint', (column) => column.notNull())
      .addColumn('assigned_by', 'text', (column) => column.notNull())
      .addColumn('directive_id', 'text', (column) => column.notNull())
      .addColumn('issued_at', 'bigint', (column) => column.notNull())
      .addColumn('confirmed', 'integer', (column) => column.notNull())
      .addPrimaryKeyConstraint('backups_assignments_pk', ['node_uid', 'config_id'])
      .$call(keyed)
      .execute();
    await sql`create index backups_assignments_present
      on backups_assignments (config_id, node_name, node_uid) where present = 1`.execute(tx);

    await tx.schema
      .createTable('backups_reports')
      .addColumn('node_uid', orderedText, (column) => column.notNull())
      .addColumn('config_id', orderedText, (column) => column.notNull())
      .addColumn('generation', 'bigint', (column) => column.notNull())
      .addColumn('reported_at', 'bigint', (column) => column.notNull())
      .addColumn('next_run_at', 'bigint')
      .addColumn('refusal', 'text')
      .addPrimaryKeyConstraint('backups_reports_pk', ['node_uid', 'config_id'])
      .$call(keyed)
      .execute();

    await tx.schema
      .createTable('backups_runs')
      .addColumn('id', orderedText, (column) => column.primaryKey())
      .addColumn('config_id', orderedText, (column) => column.notNull())
      .addColumn('config_name', 'text', (column) => column.notNull())
      .addColumn('node_uid', orderedText)
      .addColumn('node_name', 'text', (column) => column.notNull())
      .addColumn('node_key', 'text')
      .addColumn('generation', 'bigint', (column) => column.notNull())
      .addColumn('cause', 'text', (column) => column.notNull())
      .addColumn('scheduled_at', 'bigint')
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('attempt', 'bigint', (column) => column.notNull())
      .addColumn('started_at', 'bigint', (column) => column.notNull())
      .addColumn('attempt_started_at', 'bigint', (column) => column.notNull())
      .addColumn('heard_at', 'bigint', (column) => column.notNull())
      .addColumn('silent_since', 'bigint')
      .addColumn('deadline_at', 'bigint', (column) => column.notNull())
      .addColumn('finished_at', 'bigint')
      .addColumn('cancelled_at', 'bigint')
      .addColumn('cancelled_by', 'text')
      .addColumn('archive_bytes', 'bigint', (column) => column.notNull())
      .addColumn('uploaded_bytes', 'bigint', (column) => column.notNull())
      .addColumn('encrypted', 'integer', (column) => column.notNull())
      .addColumn('destination_id', orderedText, (column) => column.notNull())
      .addColumn('prefix', 'text', (column) => column.notNull())
      .addColumn('max_bytes', 'bigint', (column) => column.notNull())
      .addColumn('locked_until', 'bigint')
      .addColumn('removed_at', 'bigint')
      .addColumn('logged', 'integer', (column) => column.notNull())
      .addColumn('end_sha256', 'text')
      .addColumn('tags', 'text', (column) => column.notNull())
      .addColumn('progress', 'text')
      .addColumn('totals', 'text')
      .addColumn('reason', 'text')
      .addColumn('verified', 'text')
      .addColumn('errors', 'text', (column) => column.notNull())
      .addColumn('statement', 'text')
      .execute();
    for (const [name, columns] of [
      ['listed', ['started_at', 'id']],
      ['of_config', ['config_id', 'started_at', 'id']],
      ['of_node', ['node_uid', 'started_at', 'id']],
      ['of_both', ['config_id', 'node_uid', 'started_at', 'id']],
      ['of_destination', ['destination_id']],
    ] as const)
      await tx.schema
        .createIndex(`backups_runs_${name}`)
        .on('backups_runs')
        .columns([...columns])
        .execute();
    await sql`create index backups_runs_under_way on backups_runs (node_uid, id) where state = 'running'`.execute(tx);
    await sql`create index backups_runs_good on backups_runs (config_id, node_uid, started_at, id)
      where state in ('completed', 'completed_with_errors') and removed_at is null`.execute(tx);

    await tx.schema
      .createTable('backups_uploads')
      .addColumn('run_id', orderedText, (column) => column.notNull())
      .addColumn('attempt', 'bigint', (column) => column.notNull())
      .addColumn('object', 'text', (column) => column.notNull())
      .addColumn('upload_id', 'text', (column) => column.notNull())
      .addColumn('key', 'text', (column) => column.notNull())
      .addColumn('opened_at', 'bigint', (column) => column.notNull())
      .addColumn('closed_at', 'bigint')
      .addColumn('bytes', 'bigint')
      .addColumn('sha256', 'text')
      .addColumn('aborted_at', 'bigint')
      .addPrimaryKeyConstraint('backups_uploads_pk', ['run_id', 'attempt', 'object'])
      .execute();
    await sql`create index backups_uploads_open
      on backups_uploads (opened_at) where closed_at is null and aborted_at is null`.execute(tx);

    await tx.schema
      .createTable('backups_grants')
      .addColumn('run_id', orderedText, (column) => column.notNull())
      .addColumn('node_uid', orderedText, (column) => column.notNull())
      .addColumn('expires_at', 'bigint', (column) => column.notNull())
      .addColumn('granted_at', 'bigint', (column) => column.notNull())
      .addColumn('granted_by', 'text', (column) => column.notNull())
      .addPrimaryKeyConstraint('backups_grants_pk', ['run_id', 'node_uid'])
      .execute();

    await tx.schema
      .createTable('backups_log')
      .addColumn('id', orderedText, (column) => column.primaryKey())
      .addColumn('came', orderedText, (column) => column.notNull())
      .addColumn('node_uid', orderedText)
      .addColumn('run_id', orderedText)
      .addColumn('at', 'bigint', (column) => column.notNull())
      .addColumn('level', 'text', (column) => column.notNull())
      .addColumn('message', 'text', (column) => column.notNull())
      .addColumn('metadata', 'text')
      .execute();
    await tx.schema.createIndex('backups_log_came').on('backups_log').column('came').execute();
    await tx.schema.createIndex('backups_log_run').on('backups_log').columns(['run_id', 'came']).execute();
    await tx.schema.createIndex('backups_log_node').on('backups_log').columns(['node_uid', 'came']).execute();

    await tx.schema
      .createTable('backups_audit')
      .addColumn('id', orderedText, (column) => column.primaryKey())
      .addColumn('at', 'bigint', (column) => column.notNull())
      .addColumn('node_uid', orderedText, (column) => column.notNull())
      .addColumn('run_id', orderedText)
      .addColumn('action', 'text', (column) => column.notNull())
      .addColumn('reason', 'text', (column) => column.notNull())
      .addColumn('asked', 'text', (column) => column.notNull())
      .execute();
    await tx.schema.createIndex('backups_audit_node').on('backups_audit').columns(['node_uid', 'id']).execute();
  },
};
