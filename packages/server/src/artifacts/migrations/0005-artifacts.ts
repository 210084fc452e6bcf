import { sql } from 'kysely';
import type { Migration } from '../../platform/storage/migrate.ts';

export const migration0005: Migration = {
  number: 5,
  name: '0005-artifacts',
  up: async (tx, { kind, orderedText }) => {
    await tx.schema
      .createTable('artifacts')
      .addColumn('id', orderedText, (column) => column.primaryKey())
      .addColumn('name', orderedText, (column) => column.notNull())
      .addColumn('version', orderedText, (column) => column.notNull())
      .addColumn('type', 'text', (column) => column.notNull())
      .addColumn('architecture', 'text', (column) => column.notNull())
      .addColumn('kernel_version', 'text', (column) => column.notNull())
      .addColumn('sha256', orderedText, (column) => column.notNull())
      .addColumn('size', 'bigint', (column) => column.notNull())
      .addColumn('signer_keyid', 'text')
      .addColumn('signer_name', 'text')
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('created_by', 'text', (column) => column.notNull())
      .addColumn('deleted_at', 'bigint')
      .addColumn('manifest_bytes', 'integer', (column) => column.notNull())
      // The long ones last: SQLite reads a row's columns in their order.
      .addColumn('description', 'text', (column) => column.notNull())
      .addColumn('tags', 'text', (column) => column.notNull())
      .addColumn('metadata', 'text', (column) => column.notNull())
      .addColumn('signature', 'text')
      .addColumn('manifest', 'text', (column) => column.notNull())
      .execute();
    await sql`create unique index artifacts_version on artifacts (name, version)`.execute(tx);
    await sql`create index artifacts_live on artifacts (id) where deleted_at is null`.execute(tx);
    await sql`create index artifacts_blob on artifacts (sha256) where deleted_at is null`.execute(tx);

    await tx.schema
      .createTable('artifacts_assignments')
      .addColumn('node_uid', orderedText, (column) => column.notNull())
      .addColumn('name', orderedText, (column) => column.notNull())
      .addColumn('node_name', orderedText, (column) => column.notNull())
      .addColumn('generation', 'bigint', (column) => column.notNull())
      .addColumn('present', 'integer', (column) => column.notNull())
      .addColumn('artifact_id', orderedText, (column) => column.notNull())
      .addColumn('assigned_at', 'bigint', (column) => column.notNull())
      .addColumn('assigned_by', 'text', (column) => column.notNull())
      .addColumn('directive_id', 'text', (column) => column.notNull())
      .addColumn('issued_at', 'bigint', (column) => column.notNull())
      .addColumn('confirmed', 'integer', (column) => column.notNull())
      .addColumn('constants', 'text', (column) => column.notNull())
      .addPrimaryKeyConstraint('artifacts_assignments_pk', ['node_uid', 'name'])
      .$call((table) => (kind === 'sqlite' ? table.modifyEnd(sql`without rowid`) : table))
      .execute();
    await sql`create index artifacts_assignments_artifact
      on artifacts_assignments (artifact_id, node_uid) where confirmed = 0`.execute(tx);
    await tx.schema
      .createIndex('artifacts_assignments_listed')
      .on('artifacts_assignments')
      .columns(['name', 'node_uid'])
      .execute();

    await tx.schema
      .createTable('artifacts_reports')
      .addColumn('node_uid', orderedText, (column) => column.notNull())
      .addColumn('name', orderedText, (column) => column.notNull())
      .addColumn('generation', 'bigint', (column) => column.notNull())
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('reported_at', 'bigint', (column) => column.notNull())
      .addColumn('chars', 'integer', (column) => column.notNull())
      .addColumn('report', 'text', (column) => column.notNull())
      .addColumn('verifier_log', 'text')
      .addPrimaryKeyConstraint('artifacts_reports_pk', ['node_uid', 'name'])
      .execute();

    await tx.schema
      .createTable('artifacts_desired')
      .addColumn('node_uid', orderedText, (column) => column.primaryKey())
      .addColumn('revision', 'bigint', (column) => column.notNull())
      .addColumn('present', 'integer', (column) => column.notNull())
      .addColumn('bytes', 'bigint', (column) => column.notNull())
      .addColumn('trust_version', 'bigint', (column) => column.notNull())
      .$call((table) => (kind === 'sqlite' ? table.modifyEnd(sql`without rowid`) : table))
      .execute();

    await tx.schema
      .createTable('artifacts_kernels')
      .addColumn('node_uid', orderedText, (column) => column.primaryKey())
      .addColumn('report', 'text', (column) => column.notNull())
      .addColumn('reported_at', 'bigint', (column) => column.notNull())
      .execute();
  },
};
