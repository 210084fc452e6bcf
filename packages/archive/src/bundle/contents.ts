import { createHash } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Manifest } from '@aegis/protocol/artifacts/manifest';
import { badManifest, quoted } from './refusal.ts';

/** The files of a bundle against what its manifest says of them. */

/** Files above this are hashed one a turn, so that a server's other callers wait for one at most. */
const LONG_BYTES = 1024 * 1024;

export const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** @throws AegisError artifacts.bad_manifest when a file is missing, too many, or other than the manifest says */
export const refuseOdds = async (manifest: Manifest, files: ReadonlyMap<string, Uint8Array>): Promise<void> => {
  const named = new Set(manifest.objects.map(({ file }) => file));
  for (const file of files.keys())
    if (!named.has(file))
      throw badManifest('extra_file', `The manifest names no object ${quoted(file)}, and the bundle has it.`);
  for (const { file, size, sha256 } of manifest.objects) {
    const bytes = files.get(file);
    if (!bytes)
      throw badManifest('missing_file', `The manifest names the object ${quoted(file)}, and the bundle lacks it.`);
    if (bytes.length !== size)
      throw badManifest('size_mismatch', `${quoted(file)} has ${bytes.length} bytes, and ${size} by the manifest.`);
    if (size > LONG_BYTES) await nextTurn();
    if (sha256Of(bytes) !== sha256)
      throw badManifest('digest_mismatch', `${quoted(file)} has another SHA-256 than the manifest says.`);
  }
};
