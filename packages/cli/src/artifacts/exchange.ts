import { createHash } from 'node:crypto';
import { readBundle } from '@aegis/archive/bundle/read';
import type { Artifact, NewArtifact } from '@aegis/protocol/artifacts/endpoints';
import { BUNDLE_LIMITS } from '@aegis/protocol/artifacts/manifest';
import { AegisError } from '@aegis/protocol/errors';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { plainText } from '../ui/plain-text.ts';
import { existing, readLocal, writeLocal } from './local-files.ts';
import { SIGNATURE_SUFFIX } from './sign.ts';
import { readSignature } from './verify.ts';

/** What goes to the registry, and what comes from it. */

/** @param signature default: FILE.minisig where it is there
 *  @throws AegisError artifacts.bad_bundle and its like, cli.usage */
export const readUpload = async (file: string, signature: string | undefined): Promise<NewArtifact> => {
  const bytes = readLocal(file, "Name a bundle that 'aegis artifacts pack' made.");
  const { manifest } = await readBundle(bytes);
  const from = signature ?? (existing(file + SIGNATURE_SUFFIX) ? file + SIGNATURE_SUFFIX : undefined);
  return {
    name: manifest.name,
    version: manifest.version,
    data: bytes.toString('base64'),
    ...(from === undefined ? {} : { signature: readSignature(from).trimEnd() }),
  };
};

/** The bundle that the registry calls so, which is what it says itself.
 *  @throws AegisError artifacts.digest_mismatch, artifacts.bad_bundle and its like */
export const downloaded = async (api: Api, artifact: Artifact): Promise<Buffer> => {
  const response = await api.open(routes.artifactBinary, {
    params: { id: artifact.artifact_id },
    headers: { accept: 'application/zstd' },
  });
  const hash = createHash('sha256');
  const pieces: Buffer[] = [];
  let size = 0;
  try {
    for await (const piece of response as AsyncIterable<Buffer>) {
      size += piece.length;
      if (size > Math.min(artifact.size, BUNDLE_LIMITS.packedBytes)) break;
      hash.update(piece);
      pieces.push(piece);
    }
  } catch {
    size = -1; // the connection broke: said below
  }
  const bytes = Buffer.concat(pieces);
  if (size === artifact.size && size <= BUNDLE_LIMITS.packedBytes && hash.digest('hex') === artifact.checksum) {
    await refuseOther(artifact, bytes);
    return bytes;
  }
  throw new AegisError(
    'artifacts.digest_mismatch',
    `What came as ${artifact.name}@${artifact.version} is not what it should be (SHA-256 ${artifact.checksum}); nothing was written. Try again.`,
  );
};

/** A registry's word for what it hands out counts for nothing until the bundle says the same: else one gets an old version under the
 *  number of a new one, or a file wherever the name leads. @throws AegisError artifacts.digest_mismatch, artifacts.bad_bundle and its like */
const refuseOther = async ({ name, version }: Artifact, bytes: Buffer): Promise<void> => {
  const { manifest } = await readBundle(bytes);
  if (manifest.name === name && manifest.version === version) return;
  throw new AegisError(
    'artifacts.digest_mismatch',
    `The server calls this ${plainText(`${name}@${version}`)}, and its own manifest says ${manifest.name}@${manifest.version}: nothing was written. Ask for the version that is meant, or find out who answers there.`,
  );
};

/** @param bytes as `downloaded`. @throws AegisError cli.usage */
export const savePulled = (
  { name, version, signature }: Artifact,
  bytes: Buffer,
  output: string | undefined,
): { file: string; signature: string | null } => {
  const file = output ?? `${name}-${version}.tar.zst`;
  writeLocal(file, bytes);
  if (signature === null) return { file, signature: null };
  writeLocal(file + SIGNATURE_SUFFIX, signature.endsWith('\n') ? signature : `${signature}\n`);
  return { file, signature: file + SIGNATURE_SUFFIX };
};
