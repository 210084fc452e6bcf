import { readBundle } from '@aegis/archive/bundle/read';
import { keyIdOf } from '@aegis/protocol/access/keys';
import { parseMinisignPublicKey } from '@aegis/protocol/access/minisign';
import { openTrustBundle } from '@aegis/protocol/access/trust-bundle';
import { type ArtifactKey, artifactKeysOf, verifyBundleSignature } from '@aegis/protocol/artifacts/signature';
import { AegisError } from '@aegis/protocol/errors';
import { existing, readLocal, sha256Of } from './local-files.ts';
import { SIGNATURE_SUFFIX } from './sign.ts';

/** Whether a bundle is what somebody trusted has signed. */

type Envelope = Parameters<typeof openTrustBundle>[0];

/** Keys that may have signed: one public key's file, or all that a server's trust bundle names. */
export type TrustedKeys = readonly ArtifactKey[] | { trustBundle: Envelope; rootFingerprint: string; now: number };

const keysOf = (keys: TrustedKeys): readonly ArtifactKey[] =>
  'trustBundle' in keys
    ? artifactKeysOf(openTrustBundle(keys.trustBundle, keys.rootFingerprint, keys.now).bundle)
    : keys;

/** minisign's .pub file, or the base64 of 32 bytes as Vault shows an ed25519 key. @throws AegisError access.bad_key, cli.usage */
export const readPublicKey = (file: string): readonly ArtifactKey[] => {
  const text = readLocal(file, 'Give --public-key the .pub file of a key.', {
    bytes: 64 * 1024,
    code: 'access.bad_key',
  }).toString('utf8');
  const bare = Buffer.from(text.trim(), 'base64');
  if (bare.length === 32 && bare.toString('base64') === text.trim())
    return [{ keyid: keyIdOf(bare), raw: bare, name: file, minisignId: null, state: 'active' }];
  const { minisignId, raw } = parseMinisignPublicKey(text);
  return [{ keyid: keyIdOf(raw), raw, name: file, minisignId, state: 'active' }];
};

export interface Verified {
  name: string;
  version: string;
  sha256: string;
  size: number;
  signer: { keyid: string; name: string };
}

/** @throws AegisError artifacts.bad_bundle and its like, artifacts.{unsigned,bad_signature,unknown_signer,revoked_signer} */
export const verifyBytes = async (bytes: Buffer, signature: string | null, keys: TrustedKeys): Promise<Verified> => {
  const { manifest } = await readBundle(bytes);
  const { name, version } = manifest;
  const signer = verifyBundleSignature({ bundle: bytes, name, version, signature, keys: keysOf(keys) });
  return { name, version, sha256: sha256Of(bytes), size: bytes.length, signer };
};

export const readSignature = (file: string): string =>
  readLocal(file, "Sign the bundle with 'aegis artifacts sign'.", {
    bytes: 16 * 1024,
    code: 'artifacts.bad_signature',
  }).toString('utf8');

/** @param signature default: FILE.minisig */
export const verifyBundleFile = async (
  file: string,
  signature: string | undefined,
  keys: TrustedKeys,
): Promise<Verified & { signature: string }> => {
  const bytes = readLocal(file, "Name a bundle that 'aegis artifacts pack' made.");
  const from = signature ?? file + SIGNATURE_SUFFIX;
  if (signature === undefined && !existing(from))
    throw new AegisError(
      'artifacts.unsigned',
      `${file} has no signature beside it: ${from} is not there. Name it with --signature, or sign with 'aegis artifacts sign'.`,
    );
  return { ...(await verifyBytes(bytes, readSignature(from), keys)), signature: from };
};
