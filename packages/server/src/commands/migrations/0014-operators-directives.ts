import type { Migration } from '../../platform/storage/migrate.ts';

export const migration0014: Migration = {
  number: 14,
  name: '0014-operators-directives',
  up: async (tx) => {
    await tx.schema.alterTable('commands').addColumn('operator_directive', 'text').execute();
    await tx.schema.alterTable('commands').addColumn('operator_cancels', 'text').execute();
  },
};
