import { join } from 'node:path';
import { signStatement, statementBytes } from '@aegis/archive/backup/statement';
import type { KeyPair } from '@aegis/protocol/access/keys';
import type { BackupSpec } from '@aegis/protocol/backups/config';
import { objectNames, type RunObject } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import { type Clock, isoTime } from '../../platform/clock.ts';
import type { CredentialVault } from '../credentials.ts';
import type { Place } from '../destinations-repository.ts';
import type { RunAccess } from '../run-access.ts';
import type { S3Bounds } from '../s3/client.ts';
import type { Stores } from '../stores.ts';
import type { RunRow } from '../tables.ts';
import { lockedUntil } from '../uploads.ts';
import { keepFiles, makeFolder, partOf, sizeOf, writeSmall } from './folder.ts';
import type { OwnJob, OwnProgress, Stored } from './job.ts';
import type { OwnFileRules } from './rules.ts';
import type { StoreArchive } from './thread.ts';

/** One attempt: archive and manifest by the thread, then the statement, signed by the server's key and written last, then a look at what
 *  lies there. A restorer has to trust the server's key for this, and for this alone: what a node signed, no key of the server stands for. */

/** Where the configuration says nothing: four parts of 16 MiB in memory suffice so far. */
const DEFAULT_ARCHIVE_BYTES = 160 * 1024 ** 3 - 1;

export type AttemptResult = Stored & { statement: ReturnType<typeof signStatement> };
export type OneAttempt = (
  run: RunRow,
  spec: BackupSpec,
  place: Place,
  on: { progress(progress: OwnProgress, uploaded: number): void; signal: AbortSignal },
) => Promise<AttemptResult>;

export const oneAttempt =
  (on: {
    rules: OwnFileRules;
    storeArchive: StoreArchive;
    stores: Stores;
    access: RunAccess;
    vault: CredentialVault;
    bounds: Partial<S3Bounds>;
    key: KeyPair;
    clock: Clock;
  }): OneAttempt =>
  async (run, spec, place, { progress, signal }) => {
    const { destination } = place;
    const names = objectNames(run.encrypted === 1);
    const until = lockedUntil(place, on.clock.now());
    on.rules.check(spec); // the settings may have changed since it was stored
    await on.rules.checkReal(spec);
    const folder = destination.kind === 'file' ? await makeFolder(destination.path, run.prefix) : null;
    const output: OwnJob['output'] =
      destination.kind === 's3'
        ? {
            kind: 's3',
            destination,
            credentials: place.credentials === null ? null : on.vault.decrypt(place.configId, place.credentials),
            bounds: on.bounds,
            archiveKey: `${run.prefix}${names.archive}`,
            manifestKey: `${run.prefix}${names.manifest}`,
            lockedUntil: until,
          }
        : {
            kind: 'file',
            archive: partOf(folder ?? '', names.archive),
            manifest: partOf(folder ?? '', names.manifest),
          };
    const startedAt = isoTime(on.clock.now());
    const stored = await on.storeArchive(
      {
        sources: spec.sources,
        excludes: {
          ...spec.exclude,
          patterns: [...spec.exclude.patterns, ...(await on.rules.leftOut(spec))],
        },
        level: spec.compression.level,
        recipients: spec.encryption.recipients,
        header: {
          run_id: run.id,
          attempt: run.attempt,
          config_id: run.config_id,
          config: run.config_name,
          node_uid: null,
          node: run.node_name,
          started_at: startedAt,
          sources: spec.sources,
          tags: spec.tags,
        },
        maxArchiveBytes: Math.min(spec.limits.archive_bytes ?? DEFAULT_ARCHIVE_BYTES, run.max_bytes),
        output,
      },
      { progress, signal },
    );
    if (folder !== null) await keepFiles(folder, [names.archive, names.manifest]);
    signal.throwIfAborted();
    const statement = signStatement(
      {
        format: 'aegis-backup-1',
        run_id: run.id,
        config_id: run.config_id,
        node_uid: null,
        attempt: run.attempt,
        prefix: run.prefix,
        started_at: startedAt,
        finished_at: isoTime(on.clock.now()),
        state: stored.totals.errors > 0 ? 'completed_with_errors' : 'completed',
        encrypted: run.encrypted === 1,
        archive: { name: names.archive, ...stored.archive },
        manifest: { name: names.manifest, ...stored.manifest },
        totals: stored.totals,
      },
      on.key,
    );
    const bytes = statementBytes(statement);
    if (folder !== null) await writeSmall(folder, names.statement, bytes);
    else {
      const createOnly = place.probe?.conditional_writes ?? true;
      const key = `${run.prefix}${names.statement}`;
      if (!(await on.stores.of(place).put(key, bytes, { createOnly, lockedUntil: until })))
        throw new AegisError('backups.upload_mismatch', `There is an object ${key} at the destination already.`);
    }
    const objects = new Map<RunObject, { bytes: number }>([
      ['archive', stored.archive],
      ['manifest', stored.manifest],
      ['statement', { bytes: bytes.length }],
    ]);
    const fault = folder === null ? await on.access.check(run, place, objects) : await faultIn(folder, names, objects);
    if (fault !== null) throw new AegisError('backups.upload_mismatch', fault);
    return { ...stored, statement };
  };

const faultIn = async (
  folder: string,
  names: Readonly<Record<RunObject, string>>,
  objects: ReadonlyMap<RunObject, { bytes: number }>,
): Promise<string | null> => {
  for (const [object, { bytes }] of objects) {
    const path = join(folder, names[object]);
    const size = await sizeOf(path);
    if (size !== bytes) return `${path} has ${size ?? 'no'} bytes, and should have ${bytes}.`;
  }
  return null;
};
