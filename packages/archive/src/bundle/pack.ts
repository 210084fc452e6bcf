import { BUNDLE_LIMITS, MANIFEST_FILE, type Manifest, type ManifestSource } from '@aegis/protocol/artifacts/manifest';
import { refuseOdds, sha256Of } from './contents.ts';
import { checkManifest, writeManifest } from './manifest-text.ts';
import { readBundle } from './read.ts';
import { badManifest, overLimit, quoted } from './refusal.ts';
import { tarBytes, writeTar } from './tar-form.ts';
import { compressFrame } from './zstd-frame.ts';

/** The same input gives the same bytes, whatever the order of keys and files, the time, the machine or the umask.
 *  @throws AegisError artifacts.bad_manifest, artifacts.bundle_limit: nothing is written that `readBundle` refuses */
export const packBundle = async (input: {
  manifest: Manifest;
  files: ReadonlyMap<string, Uint8Array>;
}): Promise<Buffer> => {
  const manifestBytes = writeManifest(input.manifest);
  await refuseOdds(input.manifest, input.files);
  const entries = [...input.files].map(([name, bytes]) => ({ name, bytes }));
  const unpacked = tarBytes([manifestBytes.length, ...entries.map(({ bytes }) => bytes.length)]);
  if (unpacked > BUNDLE_LIMITS.unpackedBytes)
    throw overLimit(
      'unpacked_size',
      `The bundle's tar would have ${unpacked} bytes: at most ${BUNDLE_LIMITS.unpackedBytes}.`,
    );
  const packed = await compressFrame(writeTar([{ name: MANIFEST_FILE, bytes: manifestBytes }, ...entries]));
  await readBundle(packed);
  return packed;
};

/** An author's manifest with digests and sizes filled in, and objects in the order of their names.
 *  @param files by the manifest's file names
 *  @throws AegisError artifacts.bad_manifest */
export const completeManifest = (source: ManifestSource, files: ReadonlyMap<string, Uint8Array>): Manifest => {
  const { $schema: _forEditors, objects, ...rest } = source;
  const described = objects.map(({ file, kind }) => {
    const bytes = files.get(file);
    if (!bytes)
      throw badManifest('missing_file', `The manifest names the object ${quoted(file)}, and it was not given.`);
    return { file, kind, size: bytes.length, sha256: sha256Of(bytes) };
  });
  return checkManifest({ ...rest, objects: described.sort((a, b) => (a.file < b.file ? -1 : 1)) });
};
