import type { Storage } from '../tables.ts';
import type { BackupsTables } from './tables.ts';

/** The SQL of who else may read a run's objects for a while. */

export type GrantRow = BackupsTables['backups_grants'];

export const grantsRepository = ({ read, write }: Storage) => ({
  expiryOf: async (runId: string, nodeUid: string): Promise<number | null> => {
    const row = await read
      .selectFrom('backups_grants')
      .select('expires_at')
      .where('run_id', '=', runId)
      .where('node_uid', '=', nodeUid)
      .executeTakeFirst();
    return row?.expires_at ?? null;
  },
  put: (row: GrantRow, now: number): Promise<void> =>
    write('backups.grant', async (tx) => {
      await tx.deleteFrom('backups_grants').where('expires_at', '<=', now).execute();
      await tx
        .insertInto('backups_grants')
        .values(row)
        .onConflict((conflict) =>
          conflict.columns(['run_id', 'node_uid']).doUpdateSet({
            expires_at: row.expires_at,
            granted_at: row.granted_at,
            granted_by: row.granted_by,
          }),
        )
        .execute();
    }),
});
export type GrantsRepository = ReturnType<typeof grantsRepository>;
