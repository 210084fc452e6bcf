import { sql } from 'kysely';
import type { Migration } from '../../platform/storage/migrate.ts';

export const migration0003: Migration = {
  number: 3,
  name: '0003-commands',
  up: async (tx, { kind, blob, orderedText }) => {
    await tx.schema
      .createTable('commands')
      .addColumn('id', orderedText, (column) => column.primaryKey())
      .addColumn('correlation_id', 'text', (column) => column.notNull())
      .addColumn('command_type', 'text', (column) => column.notNull())
      .addColumn('targets', 'text', (column) => column.notNull())
      .addColumn('actor_kind', 'text', (column) => column.notNull())
      .addColumn('actor_id', 'text', (column) => column.notNull())
      .addColumn('actor_name', 'text', (column) => column.notNull())
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('result', 'text', (column) => column.notNull())
      .addColumn('priority', 'integer', (column) => column.notNull())
      .addColumn('delivery', 'text', (column) => column.notNull())
      .addColumn('max_retries', 'integer', (column) => column.notNull())
      .addColumn('retry_backoff_ms', 'bigint', (column) => column.notNull())
      .addColumn('retry_count', 'integer', (column) => column.notNull())
      .addColumn('output_limit_bytes', 'bigint', (column) => column.notNull())
      .addColumn('idempotency_key', 'text')
      .addColumn('request_sha256', 'text')
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('scheduled_at', 'bigint')
      .addColumn('expires_at', 'bigint', (column) => column.notNull())
      .addColumn('deadline_at', 'bigint')
      .addColumn('executed_at', 'bigint')
      .addColumn('completed_at', 'bigint')
      .addColumn('error_message', 'text')
      .addColumn('check_at', 'bigint', (column) => column.notNull())
      .addColumn('text_chars', 'integer', (column) => column.notNull())
      // The long ones last: SQLite reads a row's columns in their order.
      .addColumn('payload', 'text', (column) => column.notNull())
      .addColumn('answer', 'text')
      .execute();
    await tx.schema.createIndex('commands_check').on('commands').column('check_at').execute();
    await tx.schema.createIndex('commands_correlation').on('commands').columns(['correlation_id', 'id']).execute();
    await sql`create unique index commands_idempotency on commands (actor_id, idempotency_key)
      where idempotency_key is not null`.execute(tx);

    await tx.schema
      .createTable('commands_executions')
      .addColumn('id', orderedText, (column) => column.primaryKey())
      .addColumn('command_id', orderedText, (column) => column.notNull())
      .addColumn('node_uid', orderedText, (column) => column.notNull())
      .addColumn('node_name', 'text', (column) => column.notNull())
      .addColumn('attempt', 'integer', (column) => column.notNull())
      .addColumn('newest', 'integer', (column) => column.notNull())
      .addColumn('priority', 'integer', (column) => column.notNull())
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('presumed', 'integer', (column) => column.notNull())
      .addColumn('due_at', 'bigint', (column) => column.notNull())
      .addColumn('not_before', 'bigint')
      .addColumn('expires_at', 'bigint', (column) => column.notNull())
      .addColumn('offered_at', 'bigint')
      .addColumn('cancel_id', 'text')
      .addColumn('cancel_at', 'bigint')
      .addColumn('cancel_offered_at', 'bigint')
      .addColumn('cancel_due_at', 'bigint')
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('delivered_at', 'bigint')
      .addColumn('started_at', 'bigint')
      .addColumn('finished_at', 'bigint')
      .addColumn('heard_at', 'bigint', (column) => column.notNull())
      .addColumn('exit_code', 'bigint')
      .addColumn('signal', 'text')
      .addColumn('error_code', 'text')
      .addColumn('error_message', 'text')
      .addColumn('usage', 'text')
      .addColumn('tree_empty', 'integer')
      .addColumn('report_signed', 'integer', (column) => column.notNull())
      .addColumn('output_verified', 'integer')
      .addColumn('stdout_next', 'bigint', (column) => column.notNull())
      .addColumn('stdout_missing', 'bigint', (column) => column.notNull())
      .addColumn('stdout_bytes', 'bigint')
      .addColumn('stdout_sha256', 'text')
      .addColumn('stderr_next', 'bigint', (column) => column.notNull())
      .addColumn('stderr_missing', 'bigint', (column) => column.notNull())
      .addColumn('stderr_bytes', 'bigint')
      .addColumn('stderr_sha256', 'text')
      // Everything finds it by its id: one tree to search instead of two.
      .$call((table) => (kind === 'sqlite' ? table.modifyEnd(sql`without rowid`) : table))
      .execute();
    await sql`create unique index commands_executions_attempt
      on commands_executions (command_id, node_uid, attempt)`.execute(tx);
    // What a poll asks. Only open ones are in it, so that history costs it nothing.
    await sql`create index commands_executions_open on commands_executions (node_uid, state, priority desc, id)
      where state in ('queued', 'delivered', 'running')`.execute(tx);
    await sql`create index commands_executions_unacknowledged on commands_executions (node_uid, due_at)
      where state = 'queued' and offered_at is not null`.execute(tx);
    await sql`create index commands_executions_cancel on commands_executions (node_uid, cancel_due_at)
      where cancel_due_at is not null`.execute(tx);

    await tx.schema
      .createTable('commands_output')
      .addColumn('execution_id', orderedText, (column) => column.notNull())
      .addColumn('stream', 'smallint', (column) => column.notNull())
      .addColumn('start', 'bigint', (column) => column.notNull())
      .addColumn('length', 'bigint', (column) => column.notNull())
      .addColumn('stored_at', 'bigint', (column) => column.notNull())
      .addColumn('gap_reason', 'text')
      .addColumn('bytes', blob)
      .addPrimaryKeyConstraint('commands_output_pk', ['execution_id', 'stream', 'start'])
      .execute();
    // Compressing output again and again (TOAST's default) would cost more than everything else about it.
    if (kind === 'postgres') await sql`alter table commands_output alter column bytes set storage external`.execute(tx);

    await tx.schema
      .createTable('commands_queues')
      .addColumn('node_uid', orderedText, (column) => column.primaryKey())
      .addColumn('queued', 'integer', (column) => column.notNull())
      .execute();
  },
};
