/** bundle: artifact bundles at rest, `name-version.tar.zst` (docs/artifact-format.md): written by the CLI, read by server, daemon and CLI.
 *  Invariant: what is read has one form only, down to the byte of its tar, and is what its manifest says; a reader takes no more
 *  memory than the limits whatever it is given. Signatures are not looked at here: they are over the bundle's bytes, and belong
 *  before this. Must not: touch files, network, clock or database, or trust a length before it is checked. */
import { BUNDLE_LIMITS, type BundleLimits, type Manifest } from '@aegis/protocol/artifacts/manifest';
import { refuseOdds } from './contents.ts';
import { readManifest } from './manifest-text.ts';
import { readTar } from './tar-form.ts';
import { decompressFrame } from './zstd-frame.ts';

export interface Bundle {
  manifest: Manifest;
  /** As it stands in the bundle. */
  manifestBytes: Buffer;
  /** By the manifest's file names. Views of one buffer with everything unpacked. */
  files: ReadonlyMap<string, Buffer>;
}

/** @throws AegisError artifacts.bad_bundle, artifacts.bundle_limit, artifacts.bad_manifest, each with `details.reason` */
export const readBundle = async (bytes: Uint8Array, limits: Partial<BundleLimits> = {}): Promise<Bundle> => {
  const within = { ...BUNDLE_LIMITS, ...limits };
  const tar = await decompressFrame(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), within);
  const [first, ...rest] = readTar(tar, within);
  const manifestBytes = first?.bytes ?? Buffer.alloc(0);
  const manifest = readManifest(manifestBytes);
  const files = new Map(rest.map(({ name, bytes: content }) => [name, content]));
  await refuseOdds(manifest, files);
  return { manifest, manifestBytes, files };
};
