import type { Manifest } from '@aegis/protocol/artifacts/manifest';
import { AegisError } from '@aegis/protocol/errors';

/** What a publisher says of an artifact beside its bundle. Only the manifest is signed, so what is said must be what stands there. */
export interface OuterFields {
  name?: string | undefined;
  version?: string | undefined;
  description?: string | undefined;
  type?: string | undefined;
  architecture?: string | undefined;
  kernel_version?: string | undefined;
  metadata?: Readonly<Record<string, string>> | undefined;
  tags?: readonly string[] | undefined;
}

/** @throws AegisError artifacts.field_mismatch naming the first field that differs */
export const refuseMismatch = (given: OuterFields, manifest: Manifest): void => {
  for (const field of ['name', 'version', 'description', 'type', 'architecture', 'kernel_version'] as const)
    if (given[field] !== undefined && given[field] !== manifest[field])
      throw mismatch(field, given[field], manifest[field]);
  // Neither the order of tags nor that of metadata says anything.
  if (given.tags !== undefined && listed(given.tags) !== listed(manifest.tags))
    throw mismatch('tags', listed(given.tags), listed(manifest.tags));
  if (given.metadata === undefined) return;
  const own = (of: Readonly<Record<string, string>>, key: string) => (Object.hasOwn(of, key) ? of[key] : undefined);
  for (const key of new Set([...Object.keys(given.metadata), ...Object.keys(manifest.metadata)])) {
    const [says, stands] = [own(given.metadata, key), own(manifest.metadata, key)];
    if (says !== stands) throw mismatch(`metadata.${key.slice(0, 64)}`, says, stands);
  }
};

const listed = (tags: readonly string[]): string => tags.toSorted().join(', ');

const mismatch = (field: string, given: string | undefined, stands: string | undefined): AegisError => {
  const shown = (text: string | undefined) => (text === undefined ? 'nothing' : `'${text.slice(0, 200)}'`);
  return new AegisError(
    'artifacts.field_mismatch',
    `'${field}' says ${shown(given)}, the bundle's manifest ${shown(stands)}. Send what the manifest says, or leave it out.`,
    { details: { field } },
  );
};
