import { MAX_LIFETIME_MS, signDirectiveInPool } from '@aegis/protocol/access/directive';
import type { Envelope } from '@aegis/protocol/access/dsse';
import type { KeyPair } from '@aegis/protocol/access/keys';
import type { AbsentBody, PresentBody } from '@aegis/protocol/artifacts/assignment';
import type { Manifest } from '@aegis/protocol/artifacts/manifest';
import { isoTime } from '../platform/clock.ts';
import type { HostRow } from './assignments-repository.ts';
import { effectiveConstants, type Settings } from './settings.ts';

/** Assignments as signed directives. Everything in a body comes from rows that do not change within one generation, so whoever
 *  makes it again makes the same bytes. */

export interface Signer {
  fleet: string;
  key: KeyPair;
}
/** What a body takes from a manifest. */
export type Template = Pick<Manifest, 'programs' | 'constants' | 'maps'>;

const KEPT_BYTES = 32 * 1024 * 1024;

/** Manifests, parsed once for all nodes: an artifact's never changes. Bounded by their text. */
export const templates = (manifestOf: (artifactId: string) => Promise<string | undefined>) => {
  const kept = new Map<string, { template: Template; bytes: number }>();
  let bytes = 0;
  return async (artifactId: string): Promise<Template | null> => {
    const known = kept.get(artifactId);
    if (known) return known.template;
    const text = await manifestOf(artifactId);
    if (!text) return null; // deleted
    const { programs, constants, maps } = JSON.parse(text) as Manifest; // as validated when it was published
    const template = { programs, constants, maps };
    if (!kept.has(artifactId)) bytes += text.length;
    kept.set(artifactId, { template, bytes: text.length });
    for (const [oldest, entry] of kept) {
      if (bytes <= KEPT_BYTES) break;
      kept.delete(oldest);
      bytes -= entry.bytes;
    }
    return template;
  };
};
export type Templates = ReturnType<typeof templates>;

export const presentBody = (row: HostRow, { programs, constants, maps }: Template): PresentBody => ({
  state: 'present',
  artifact_id: row.artifact_id,
  name: row.name,
  version: row.artifact.version,
  sha256: row.artifact.sha256,
  size: row.artifact.size,
  signature: row.artifact.signature,
  constants: effectiveConstants(constants, JSON.parse(row.constants) as Settings),
  programs: [...programs],
  maps: [...maps],
});
export const absentBody = ({ name }: Pick<HostRow, 'name'>): AbsentBody => ({ state: 'absent', name });

export const assignmentDirective = (
  signer: Signer,
  nodeKeyId: string,
  row: Pick<HostRow, 'directive_id' | 'issued_at' | 'generation' | 'name'>,
  body: PresentBody | AbsentBody,
): Promise<Envelope> =>
  signDirectiveInPool(
    {
      fleet: signer.fleet,
      id: row.directive_id,
      kind: 'artifacts.assign',
      targets: { node_keys: [nodeKeyId] },
      issued_at: isoTime(row.issued_at),
      expires_at: isoTime(row.issued_at + MAX_LIFETIME_MS),
      max_attempts: 1,
      object_id: row.name,
      generation: row.generation,
      body,
    },
    signer.key,
  );
