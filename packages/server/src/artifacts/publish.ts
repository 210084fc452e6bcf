import { createHash } from 'node:crypto';
import type { Manifest } from '@aegis/protocol/artifacts/manifest';
import { AegisError } from '@aegis/protocol/errors';
import type { Blobs } from '../platform/blobs.ts';
import type { Clock } from '../platform/clock.ts';
import type { OneAtATime } from '../platform/one-at-a-time.ts';
import type { Tx } from '../tables.ts';
import type { AssignmentsRepository } from './assignments-repository.ts';
import type { DesiredState } from './desired.ts';
import type { Change, DesiredChanges } from './desired-changes.ts';
import { type OuterFields, refuseMismatch } from './fields.ts';
import type { ArtifactHead, ArtifactsRepository, Signature } from './repository.ts';
import type { Signers } from './signers.ts';
import type { ArtifactRow } from './tables.ts';

/** Publishing: a bundle is read, compared with what is said of it, its signature checked, its bytes made durable, and only then named
 *  by a row. One at a time: an unpacked bundle may be 64 MiB. */

export interface Publication {
  by: string;
  bundle: () => Buffer;
  fields: OuterFields;
  signature: string | null;
}
export type ReadBundle = (bytes: Uint8Array) => Promise<{ manifest: Manifest }>;

type Outcome =
  | { kind: 'created' | 'same'; id: string; changes: readonly Change[] }
  | { kind: 'taken'; by: ArtifactHead };

/** Rows of deleted artifacts stay; there are at most so many for each that may be there. */
const EVER_FOR_EACH = 10;

export const publisher = (on: {
  repository: ArtifactsRepository;
  assignments: AssignmentsRepository;
  changes: DesiredChanges;
  desired: DesiredState;
  blobs: Blobs;
  signers: Signers;
  readBundle: ReadBundle;
  inTurn: OneAtATime;
  clock: Clock;
  newId: () => string;
  /** Unsigned bundles are stored, and no node loads them. */
  takesUnsigned: boolean;
  maxArtifacts: number;
}) => {
  const { repository } = on;

  const refuseTooMany = async (tx: Tx, isNewVersion: boolean): Promise<void> => {
    const { live, ever } = await repository.counts(tx);
    if (live >= on.maxArtifacts)
      throw new AegisError(
        'artifacts.limit',
        `There are ${live} artifacts, as many as there may be (artifacts.max_artifacts). Delete some that nobody needs, or raise that setting.`,
      );
    if (isNewVersion && ever >= on.maxArtifacts * EVER_FOR_EACH)
      throw new AegisError(
        'artifacts.limit',
        `${ever} versions were published so far, deleted ones included, as many as there may be. Raise artifacts.max_artifacts.`,
      );
  };
  const insert = async (tx: Tx, row: ArtifactRow): Promise<boolean> => {
    await refuseTooMany(tx, true);
    return repository.insert(tx, row);
  };

  /** What a node was told binds the signature: assignments of the artifact are told anew. */
  const sign = async (tx: Tx, artifact: ArtifactHead, signature: Signature, by: string): Promise<readonly Change[]> => {
    await repository.update(tx, artifact.id, signature);
    const holders = await on.assignments.holdersIn(tx, artifact.id, null);
    return on.changes(tx, {
      name: artifact.name,
      hosts: holders.map(({ node_uid, node_name }) => ({ uid: node_uid, name: node_name })),
      by,
      now: on.clock.now(),
      wishFor: (before) => (before?.present === 1 && before.artifact_id === artifact.id ? { kind: 'anew' } : null),
    });
  };

  const store = async (tx: Tx, row: ArtifactRow): Promise<Outcome> => {
    const found = await repository.byVersionIn(tx, row.name, row.version);
    if (!found && (await insert(tx, row))) return { kind: 'created', id: row.id, changes: [] };
    const known = found ?? (await repository.byVersionIn(tx, row.name, row.version)); // another server process was quicker
    if (!known) throw new AegisError('http.unavailable', 'The version was taken this moment. Send it again.');
    if (known.sha256 !== row.sha256) return { kind: 'taken', by: known };
    if (known.deleted_at !== null) {
      await refuseTooMany(tx, false);
      const { id: _, ...again } = row;
      await repository.update(tx, known.id, again);
      return { kind: 'created', id: known.id, changes: [] };
    }
    const { signature, signer_keyid, signer_name } = row;
    const better =
      signature !== null && (known.signer_keyid === null || on.signers.stateOf(known.signer_keyid) !== 'active');
    const changes = better ? await sign(tx, known, { signature, signer_keyid, signer_name }, row.created_by) : [];
    return { kind: 'same', id: known.id, changes };
  };

  const publish = async ({ by, bundle, fields, signature }: Publication): Promise<{ id: string; created: boolean }> => {
    if (signature === null && !on.takesUnsigned) throw unsigned();
    const bytes = bundle();
    const { manifest } = await on.readBundle(bytes);
    refuseMismatch(fields, manifest);
    const { name, version } = manifest;
    const signer = signature === null ? null : on.signers.verify({ bundle: bytes, name, version, signature });
    const text = JSON.stringify(manifest);
    const row: ArtifactRow = {
      id: on.newId(),
      name,
      version,
      description: manifest.description,
      type: manifest.type,
      architecture: manifest.architecture,
      kernel_version: manifest.kernel_version,
      tags: JSON.stringify(manifest.tags),
      metadata: JSON.stringify(manifest.metadata),
      sha256: createHash('sha256').update(bytes).digest('hex'),
      size: bytes.length,
      signature,
      signer_keyid: signer?.keyid ?? null,
      signer_name: signer?.name ?? null,
      created_at: on.clock.now(),
      created_by: by,
      deleted_at: null,
      manifest_bytes: Buffer.byteLength(text),
      manifest: text,
    };
    const known = await repository.byVersion(name, version);
    if (known && known.sha256 !== row.sha256) throw taken(known); // before its bytes fill the disk
    await on.blobs.put(row.sha256, bytes).catch((error: unknown) => {
      throw isFull(error) ? storageFull(error) : error;
    });
    const outcome = await repository
      .write('artifacts.publish', (tx) => store(tx, row))
      .catch(async (error: unknown) => {
        if (error instanceof AegisError && error.code === 'artifacts.limit') await on.blobs.remove(row.sha256);
        throw error; // after any other the row may be there all the same: the sweep decides
      });
    if (outcome.kind === 'taken') {
      await on.blobs.remove(row.sha256);
      throw taken(outcome.by);
    }
    on.desired.changed(outcome.changes.map(({ after, revision }) => [after.node_uid, revision]));
    return { id: outcome.id, created: outcome.kind === 'created' };
  };

  /** The same bytes again are the same artifact; a good signature over them is taken where there is none, or none that holds.
   *  @throws AegisError artifacts.unsigned, bad_bundle, bundle_limit, bad_manifest, field_mismatch, bad_signature, unknown_signer,
   *  revoked_signer, version_taken, limit, storage_full */
  return (publication: Publication): Promise<{ id: string; created: boolean }> => on.inTurn(() => publish(publication));
};

const unsigned = () =>
  new AegisError(
    'artifacts.unsigned',
    "The bundle comes without a signature. Sign it with 'aegis artifacts sign' (or minisign), and send it as 'signature'.",
  );
const taken = ({ name, version, sha256, deleted_at }: ArtifactHead) =>
  new AegisError(
    'artifacts.version_taken',
    `${name} ${version} ${deleted_at === null ? 'is' : 'was, until it was deleted,'} another bundle (SHA-256 ${sha256.slice(0, 16)}…). A version never changes: give this one a new version.`,
    { details: { checksum: sha256 } },
  );
const storageFull = (cause: unknown) =>
  new AegisError(
    'artifacts.storage_full',
    "The server's disk is full: nothing was stored. Free some space on it; then send the bundle again.",
    { cause, retryAfterSec: 10 },
  );
const isFull = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && ['ENOSPC', 'EDQUOT', 'EFBIG'].includes(String(error.code));
