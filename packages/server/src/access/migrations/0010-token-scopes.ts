import type { Migration } from '../../platform/storage/migrate.ts';

export const migration0010: Migration = {
  number: 10,
  name: '0010-token-scopes',
  up: async (tx) => {
    await tx.schema.alterTable('access_tokens').addColumn('scope', 'text').execute();
  },
};
