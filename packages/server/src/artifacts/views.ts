import type { Artifact, ArtifactDetail, Assignment } from '@aegis/protocol/artifacts/endpoints';
import { isoTime } from '../platform/clock.ts';
import type { ArtifactHead } from './repository.ts';
import type { AssignmentRow } from './tables.ts';

/** Rows as the API shows them. */

export type SignerState = 'active' | 'revoked' | 'unknown';

export const artifactView = (
  row: ArtifactHead,
  assigned: number,
  stateOf: (keyid: string) => SignerState,
): Artifact => ({
  artifact_id: row.id,
  name: row.name,
  version: row.version,
  description: row.description,
  type: row.type,
  architecture: row.architecture,
  kernel_version: row.kernel_version,
  tags: JSON.parse(row.tags) as string[],
  metadata: JSON.parse(row.metadata) as Record<string, string>,
  checksum: row.sha256,
  size: row.size,
  signed: row.signature !== null,
  signature: row.signature,
  signer:
    row.signer_keyid === null
      ? null
      : { keyid: row.signer_keyid, name: row.signer_name ?? '', state: stateOf(row.signer_keyid) },
  assigned,
  created_at: isoTime(row.created_at),
  created_by: row.created_by,
});

export const detailView = (artifact: Artifact, manifest: string): ArtifactDetail => ({
  ...artifact,
  manifest: JSON.parse(manifest) as ArtifactDetail['manifest'], // as validated when it was published
});

export const assignmentView = (row: AssignmentRow, version: string): Assignment => ({
  artifact_id: row.artifact_id,
  name: row.name,
  version,
  host_id: row.node_uid,
  host: row.node_name,
  generation: row.generation,
  constants: JSON.parse(row.constants) as Assignment['constants'],
  assigned_at: isoTime(row.assigned_at),
  assigned_by: row.assigned_by,
});
