import { AegisError } from '@aegis/protocol/errors';
import type { Backup, Difference, OpenBackupOptions } from './backup.ts';

/** @throws AegisError backups.untrusted_node, backups.bad_statement, backups.bad_manifest, backups.wrong_identity */
export const openBackup = async (_options: OpenBackupOptions): Promise<Backup> => {
  throw new AegisError('backups.unsupported', 'Restoring is being built.');
};

/** What changed from one backup to another: both in the order of their paths, so memory does not grow. */
export async function* diff(_before: Backup, _after: Backup): AsyncGenerator<Difference, void, undefined> {
  yield* [];
}
