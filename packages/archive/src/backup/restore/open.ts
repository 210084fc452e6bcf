import { AegisError } from '@aegis/protocol/errors';
import type { Entry } from '../manifest/lines.ts';
import { openStatement, type Statement } from '../statement.ts';
import type { Backup, EntryFilter, OpenBackupOptions } from './backup.ts';
import type { Archive } from './frame-feed.ts';
import { type ManifestStore, storeManifest } from './manifest-store.ts';
import { readContent } from './read-content.ts';
import { badArchive } from './refusals.ts';
import { restoreInto } from './restore-run.ts';
import { verifyArchive } from './verify-run.ts';

export { diff } from './difference.ts';

/** Opens a backup: nothing of archive and manifest is believed but what the statement says, which a trusted node's key signed.
 *  @throws AegisError backups.untrusted_node, backups.bad_statement, backups.bad_manifest, backups.bad_archive, backups.wrong_identity */
export const openBackup = async (options: OpenBackupOptions): Promise<Backup> => {
  const { statement, signedBy } = openStatement(options.statement, options.trustedNodeKeys);
  const { archive: source, identities, spoolDir, signal } = options;
  if (source.size !== statement.archive.bytes)
    throw badArchive('size', `it has ${source.size} bytes, and the signed statement says ${statement.archive.bytes}`);
  const manifest = await storeManifest({
    source: options.manifest,
    stated: statement.manifest,
    archiveBytes: statement.archive.bytes,
    identities,
    spoolDir,
    signal,
  });
  try {
    refuseContradiction(manifest, statement);
  } catch (error) {
    await manifest.close();
    throw error;
  }
  const archive: Archive = {
    source,
    stated: statement.archive,
    table: manifest.table,
    identities: manifest.encrypted ? identities : null,
  };
  const deps = { manifest, archive };
  return {
    statement,
    signedBy,
    header: manifest.header,
    end: manifest.end,
    sorted: manifest.sorted,
    encrypted: manifest.encrypted,
    entries: (filter) => flat(manifest, filter),
    errors: manifest.errors,
    read: (path) => readContent(deps, path),
    restore: (wish) => restoreInto(deps, wish),
    verify: (wish = {}) => verifyArchive(deps, wish),
    close: manifest.close,
    [Symbol.asyncDispose]: manifest.close,
  };
};

const refuseContradiction = ({ end, encrypted }: ManifestStore, { archive, encrypted: stated }: Statement): void => {
  if (end.archive.bytes !== archive.bytes || end.archive.sha256 !== archive.sha256 || encrypted !== stated)
    throw new AegisError(
      'backups.bad_manifest',
      "The backup's manifest is refused: it is of another archive than the one that the signed statement names.",
      { details: { reason: 'other_archive' } },
    );
};

async function* flat(manifest: ManifestStore, filter: EntryFilter | undefined): AsyncGenerator<Entry, void, undefined> {
  for await (const batch of manifest.batches()) for (const entry of batch) if (!filter || filter(entry)) yield entry;
}
