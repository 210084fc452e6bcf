import type { Migration } from '../../platform/storage/migrate.ts';

export const migration0015: Migration = {
  number: 15,
  name: '0015-operator-wishes',
  up: async (tx, { orderedText }) => {
    await tx.schema
      .createTable('nodes_operator_wishes')
      .addColumn('node_uid', orderedText, (column) => column.notNull())
      .addColumn('kind', 'text', (column) => column.notNull())
      .addColumn('object_id', 'text', (column) => column.notNull())
      .addColumn('generation', 'bigint', (column) => column.notNull())
      .addColumn('signed_at', 'bigint', (column) => column.notNull())
      .addColumn('envelope', 'text', (column) => column.notNull())
      .addPrimaryKeyConstraint('nodes_operator_wishes_pk', ['node_uid', 'kind', 'object_id'])
      .execute();
  },
};
