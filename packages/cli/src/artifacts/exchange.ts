import { readBundle } from '@aegis/archive/bundle/read';
import type { Artifact, NewArtifact } from '@aegis/protocol/artifacts/endpoints';
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

/** @throws AegisError cli.usage */
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
