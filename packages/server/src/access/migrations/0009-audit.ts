import { AUDIT_GENESIS } from '@aegis/protocol/access/audit';
import type { Migration } from '../../platform/storage/migrate.ts';

export const migration0009: Migration = {
  number: 9,
  name: '0009-audit',
  up: async (tx, { orderedText }) => {
    await tx.schema
      .createTable('access_audit')
      .addColumn('seq', 'bigint', (column) => column.primaryKey())
      .addColumn('at', 'bigint', (column) => column.notNull())
      .addColumn('request_id', 'text', (column) => column.notNull())
      .addColumn('actor_kind', 'text', (column) => column.notNull())
      .addColumn('actor_id', 'text')
      .addColumn('actor_name', 'text')
      .addColumn('key_id', 'text')
      .addColumn('action', 'text', (column) => column.notNull())
      .addColumn('targets', 'text', (column) => column.notNull())
      .addColumn('summary', 'text', (column) => column.notNull())
      .addColumn('address', 'text')
      .addColumn('outcome', 'text', (column) => column.notNull())
      .addColumn('code', 'text')
      .addColumn('count', 'bigint', (column) => column.notNull())
      .addColumn('hash', orderedText, (column) => column.notNull())
      .execute();
    await tx.schema
      .createTable('access_audit_head')
      .addColumn('id', 'integer', (column) => column.primaryKey())
      .addColumn('seq', 'bigint', (column) => column.notNull())
      .addColumn('hash', 'text', (column) => column.notNull())
      .execute();
    await tx.insertInto('access_audit_head').values({ id: 1, seq: 0, hash: AUDIT_GENESIS }).execute();
    await tx.schema
      .createTable('access_audit_signed')
      .addColumn('seq', 'bigint', (column) => column.notNull())
      .addColumn('kind', orderedText, (column) => column.notNull())
      .addColumn('envelope', 'text', (column) => column.notNull())
      .addPrimaryKeyConstraint('access_audit_signed_pk', ['seq', 'kind'])
      .execute();
  },
};
