import { createHash, verify } from 'node:crypto';
import { keyIdOf, publicKeyFromRaw } from '../access/keys.ts';
import {
  exactBase64,
  isSmallOrder,
  type MinisignId,
  minisignHash,
  parseMinisignSignature,
  verifyParsedMinisign,
} from '../access/minisign.ts';
import type { TrustBundle } from '../access/trust-bundle.ts';
import { AegisError } from '../errors.ts';

/** Who signed an artifact's bundle. A signature binds name and version as well as the bytes, so that nobody can pass one artifact
 *  off as another, or an old version as a new one. Two forms: minisign's text, with both in its trusted comment, and
 *  `vault:vN:<base64>`, Vault's transit engine over a statement of name, version and SHA-256. */

export interface ArtifactKey {
  /** Hex SHA-256 of the raw public key. */
  keyid: string;
  /** 32 bytes, Ed25519. */
  raw: Buffer;
  name: string;
  /** Null for a key that signs through Vault alone. */
  minisignId: MinisignId | null;
  state: 'active' | 'revoked';
}

const MARK = 'aegis-artifact-1';

/** The keys of a bundle that may sign artifacts, the revoked ones too. A key that stands under another's id is left out, and one
 *  that is revoked anywhere in the bundle is revoked. */
export const artifactKeysOf = (bundle: TrustBundle): ArtifactKey[] => {
  const own = bundle.keys
    .map((key) => ({ ...key, raw: Buffer.from(key.public_key, 'base64') }))
    .filter(({ raw, keyid }) => keyIdOf(raw) === keyid && !isSmallOrder(raw));
  const revoked = new Set(own.filter(({ state }) => state === 'revoked').map(({ keyid }) => keyid));
  return own
    .filter(({ usage }) => usage.includes('artifacts'))
    .map(({ keyid, raw, name, minisign_id }) => ({
      keyid,
      raw,
      name,
      minisignId: minisign_id ?? null,
      state: revoked.has(keyid) ? 'revoked' : 'active',
    }));
};

/** What minisign signs beside the bytes. @param atMs milliseconds since 1970 */
export const trustedCommentOf = (name: string, version: string, atMs: number): string =>
  `${MARK} name=${name} version=${version} time=${new Date(atMs).toISOString()}`;

/** What Vault signs. @param sha256 of the bundle, hex */
export const vaultStatement = (name: string, version: string, sha256: string): Buffer =>
  Buffer.from(`${MARK}\n${name}\n${version}\n${sha256}\n`, 'utf8');

export interface SignedBundle {
  bundle: Uint8Array;
  name: string;
  version: string;
  signature: string | null;
  keys: readonly ArtifactKey[];
}

export interface ArtifactSigner {
  keyid: string;
  name: string;
}

/** The key that signed this bundle under this name and version.
 *  @throws AegisError artifacts.unsigned, bad_signature, unknown_signer, revoked_signer */
export const verifyBundleSignature = (signed: SignedBundle): ArtifactSigner => {
  const { signature, name, version } = signed;
  if (signature === null)
    throw new AegisError(
      'artifacts.unsigned',
      `${name} ${version} is not signed, and no node loads it: sign it with 'aegis artifacts sign' and push it as a new version.`,
    );
  return signature.startsWith('vault:') ? verifiedByVault(signed, signature) : verifiedByMinisign(signed, signature);
};

const badSignature = (why: string): AegisError => new AegisError('artifacts.bad_signature', why);
const revokedSigner = ({ name, version }: SignedBundle, key: ArtifactKey): AegisError =>
  new AegisError(
    'artifacts.revoked_signer',
    `${name} ${version} is signed by the key '${key.name}' (${key.minisignId ?? key.keyid.slice(0, 16)}), which is revoked: sign it with another and push it as a new version.`,
  );

const verifiedByMinisign = (signed: SignedBundle, text: string): ArtifactSigner => {
  const signature = parseMinisignSignature(text);
  const named = signed.keys.filter(({ minisignId }) => minisignId === signature.minisignId);
  if (named.length === 0)
    throw new AegisError(
      'artifacts.unknown_signer',
      `The signature was made with the key ${signature.minisignId}, which this fleet does not trust for artifacts: see 'aegis access keys list', or add it with 'aegis access keys add'.`,
    );
  const hash = minisignHash(signed.bundle);
  const key = signerAmong(named, ({ raw }) => {
    verifyParsedMinisign(hash, signature, raw);
  });
  checkTrustedComment(signed, signature.trustedComment);
  if (key.state === 'revoked') throw revokedSigner(signed, key);
  return { keyid: key.keyid, name: key.name };
};

/** An id is a name that anybody can give to a key of his own: of several that bear it, the one counts under which it verifies. */
const signerAmong = (keys: readonly ArtifactKey[], verifyWith: (key: ArtifactKey) => void): ArtifactKey => {
  let refusal: unknown;
  for (const key of keys) {
    try {
      verifyWith(key);
      return key;
    } catch (error) {
      refusal = error;
    }
  }
  throw refusal;
};

const COMMENT = new RegExp(
  `^${MARK} name=([^\\s=]+) version=([^\\s=]+) time=(\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(?:\\.\\d{1,9})?Z)$`,
);

const checkTrustedComment = ({ name, version }: SignedBundle, comment: string): void => {
  const [, signedName, signedVersion, time = ''] = COMMENT.exec(comment) ?? [];
  if (signedName === undefined || Number.isNaN(Date.parse(time)))
    throw badSignature(
      `The signature is good, but not one for an artifact: its trusted comment has to be "${MARK} name=NAME version=VERSION time=TIME". 'aegis artifacts sign' writes it.`,
    );
  if (signedName !== name || signedVersion !== version)
    throw badSignature(
      `The signature is one for ${signedName} ${signedVersion}, not for ${name} ${version}: sign this bundle itself.`,
    );
};

const verifiedByVault = (signed: SignedBundle, text: string): ArtifactSigner => {
  const [, encoded = ''] = /^vault:v[1-9]\d{0,8}:([A-Za-z0-9+/=]{1,128})\s?$/.exec(text) ?? [];
  const signature = exactBase64(encoded, 64);
  if (!signature)
    throw badSignature(
      'A signature of Vault is "vault:vN:" and the base64 of 64 bytes, made with an Ed25519 key of its transit engine.',
    );
  const sha256 = createHash('sha256').update(signed.bundle).digest('hex');
  const statement = vaultStatement(signed.name, signed.version, sha256);
  // Vault names its key in no way that counts here: each is tried, the active ones first.
  const made = ({ raw }: ArtifactKey): boolean =>
    !isSmallOrder(raw) && verify(null, statement, publicKeyFromRaw(raw), signature);
  const active = signed.keys.find((key) => key.state === 'active' && made(key));
  if (active) return { keyid: active.keyid, name: active.name };
  const revoked = signed.keys.find((key) => key.state === 'revoked' && made(key));
  if (revoked) throw revokedSigner(signed, revoked);
  if (signed.keys.every(({ state }) => state === 'revoked'))
    throw new AegisError(
      'artifacts.unknown_signer',
      "This fleet trusts no key for artifacts: add the public key of Vault's transit engine with 'aegis access keys add'.",
    );
  throw badSignature(
    `No key that this fleet trusts for artifacts made this Vault signature over ${signed.name} ${signed.version} and these bytes: they were changed, signed under another name or version, or by a key that is not added ('aegis access keys list').`,
  );
};
