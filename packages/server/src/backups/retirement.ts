import type { RunReason } from '@aegis/protocol/backups/run';
import type { Tx } from '../tables.ts';

/** What becomes of a retired node's backups: it has no configurations any more, its runs under way are lost for good, and its archives and
 *  their records stay. */
export const retireNode = async (tx: Tx, uid: string, now: number): Promise<void> => {
  for (const table of ['backups_assignments', 'backups_reports', 'backups_grants'] as const)
    await tx.deleteFrom(table).where('node_uid', '=', uid).execute();
  const reason: RunReason = { code: 'nodes.retired', message: 'The node was retired while the run was under way.' };
  await tx
    .updateTable('backups_runs')
    .set({ state: 'lost', finished_at: now, reason: JSON.stringify(reason) })
    .where('node_uid', '=', uid)
    .where('state', '=', 'running')
    .execute();
};
