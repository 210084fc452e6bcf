import type { Migration } from '../../platform/storage/migrate.ts';

/** From where an enrolment came and with which join token: each may have only so many under way. */
export const migration0004: Migration = {
  number: 4,
  name: '0004-registration-origins',
  up: async (tx) => {
    await tx.schema.alterTable('nodes_registrations').addColumn('remote_address', 'text').execute();
    await tx.schema.alterTable('nodes_registrations').addColumn('token_id', 'text').execute();
  },
};
