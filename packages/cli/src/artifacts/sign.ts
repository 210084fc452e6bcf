import { readBundle } from '@aegis/archive/bundle/read';
import { signMinisign } from '@aegis/protocol/access/minisign';
import { isEncryptedSecretKey, parseMinisignSecretKey } from '@aegis/protocol/access/minisign-secret-key';
import { trustedCommentOf, vaultStatement } from '@aegis/protocol/artifacts/signature';
import { readLocal, sha256Of, writeLocal } from './local-files.ts';
import { vaultSettings, vaultSign } from './vault.ts';

/** A signature beside its bundle: `FILE.minisig`. The bundle is read first: what no server would take is not signed. */

export const SIGNATURE_SUFFIX = '.minisig';
const BUNDLE = "Name a bundle that 'aegis artifacts pack' made.";
const KEY_LIMIT = { bytes: 64 * 1024, code: 'access.bad_key' } as const;

export interface SignedFile {
  file: string;
  signature: string;
  name: string;
  version: string;
  sha256: string;
  /** The key id that minisign prints, or null for one of Vault's. */
  minisign_id: string | null;
  trusted_comment: string | null;
}

const described = async (file: string) => {
  const bytes = readLocal(file, BUNDLE);
  const { manifest } = await readBundle(bytes);
  return { bytes, name: manifest.name, version: manifest.version, sha256: sha256Of(bytes) };
};

/** @param password asked for only when the key is under one
 *  @throws AegisError artifacts.bad_bundle and its like, access.bad_key, access.bad_password, cli.usage */
export const signWithKey = async (
  file: string,
  keyFile: string,
  output: string | undefined,
  { password, now }: { password: () => Promise<string>; now: number },
): Promise<SignedFile> => {
  const { bytes, name, version, sha256 } = await described(file);
  const text = readLocal(keyFile, "Make one with 'aegis access keys create' or 'minisign -G'.", KEY_LIMIT).toString(
    'utf8',
  );
  const key = await parseMinisignSecretKey(text, isEncryptedSecretKey(text) ? await password() : null);
  const trustedComment = trustedCommentOf(name, version, now);
  const signature = output ?? file + SIGNATURE_SUFFIX;
  writeLocal(signature, signMinisign(bytes, key, { trustedComment }));
  return { file, signature, name, version, sha256, minisign_id: key.minisignId, trusted_comment: trustedComment };
};

/** @throws AegisError artifacts.vault_failed, artifacts.bad_bundle and its like, cli.usage */
export const signWithVault = async (
  file: string,
  { key, mount }: { key: string; mount: string },
  output: string | undefined,
  env: Readonly<Record<string, string | undefined>>,
): Promise<SignedFile> => {
  const settings = vaultSettings(env, (path) =>
    readLocal(path, 'Correct VAULT_CACERT.', { bytes: 1024 * 1024, code: 'cli.usage' }).toString('utf8'),
  );
  const { name, version, sha256 } = await described(file);
  const text = await vaultSign(vaultStatement(name, version, sha256), key, mount, settings);
  const signature = output ?? file + SIGNATURE_SUFFIX;
  writeLocal(signature, `${text}\n`);
  return { file, signature, name, version, sha256, minisign_id: null, trusted_comment: null };
};
