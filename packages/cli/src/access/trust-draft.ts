import { readFileSync, statSync } from 'node:fs';
import type { KeyPair } from '@aegis/protocol/access/keys';
import type { TrustChange, TrustDraft } from '@aegis/protocol/access/trust-endpoints';
import { AegisError } from '@aegis/protocol/errors';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { reasonOf, replaceFile, writeNewFile } from '../new-file.ts';
import { readKeyFile } from '../signing/operator-key.ts';
import { readPassword } from '../ui/ask-password.ts';
import type { Output } from '../ui/output.ts';
import { plainText } from '../ui/plain-text.ts';

/** Drafts of the trust bundle as files: they go from machine to machine until enough of the root's keys have signed. */

const MAX_DRAFT_BYTES = 4 * 1024 * 1024;

/** @throws AegisError cli.usage */
export const readDraft = async (path: string): Promise<TrustDraft> => {
  let text: string;
  try {
    if (path !== '-' && statSync(path).size > MAX_DRAFT_BYTES) throw notADraft(path);
    text = readFileSync(path === '-' ? 0 : path, 'utf8');
  } catch (error) {
    if (error instanceof AegisError) throw error;
    throw new AegisError('cli.usage', `${path} cannot be read (${reasonOf(error)}). Name a draft.`);
  }
  const { TrustDraft } = await import('@aegis/protocol/access/trust-endpoints');
  const { parseStrictJson } = await import('@aegis/protocol/access/strict-json');
  const z = await import('zod/mini');
  try {
    return z.parse(TrustDraft, parseStrictJson(text));
  } catch {
    throw notADraft(path);
  }
};
const notADraft = (path: string): AegisError =>
  new AegisError('cli.usage', `${path} is no draft of a trust bundle. Make one with 'aegis access trust draft'.`);

const textOf = (draft: TrustDraft): string => `${JSON.stringify(draft, null, 2)}\n`;

/** @throws AegisError cli.usage, also when it is there already */
export const writeNewDraft = (path: string, draft: TrustDraft): void =>
  writeNewFile(path, textOf(draft), {
    mode: 0o644,
    taken: () => new AegisError('cli.usage', `${path} is there already: name a new file with --out.`),
    elsewhere: 'choose another place with --out',
  });

/** In the place of the one that was read: whole, or not at all. @throws AegisError cli.usage */
export const replaceDraft = (path: string, draft: TrustDraft): void => {
  try {
    replaceFile(path, textOf(draft), 0o644);
  } catch (error) {
    throw new AegisError('cli.usage', `${path} cannot be written (${reasonOf(error)}): nothing was signed.`);
  }
};

export interface Signed {
  root: { count: number; threshold: number };
  /** Null where the root stays. */
  next_root: { count: number; threshold: number } | null;
  enough: boolean;
}

/** How far a draft is. */
export const signaturesOf = async (draft: TrustDraft): Promise<Signed> => {
  const { readTrustPayload, rootFingerprintOf, rootSignatures } = await import('@aegis/protocol/access/trust-bundle');
  const [before, after] = [draft.before.payload, draft.payload].map((payload) => readTrustPayload(payload).root);
  const envelope = envelopeOf(draft);
  const state = (root: typeof before) => {
    if (!root) throw notADraft('This');
    const { count, enough } = rootSignatures(envelope, root);
    return { count, threshold: root.threshold, enough };
  };
  const [of, to] = [state(before), state(after)];
  const isNewRoot = before && after ? rootFingerprintOf(before) !== rootFingerprintOf(after) : true;
  const shown = ({ count, threshold }: typeof of) => ({ count, threshold });
  return { root: shown(of), next_root: isNewRoot ? shown(to) : null, enough: of.enough && to.enough };
};

const TRUST_TYPE = 'application/vnd.aegis.trust.v1+json';
export const envelopeOf = ({ payload, signatures }: TrustDraft) => ({ payloadType: TRUST_TYPE, payload, signatures });

/** @throws AegisError access.bad_key for a key that is none of the root's */
export const sign = async (draft: TrustDraft, key: KeyPair): Promise<TrustDraft> => {
  const { readTrustPayload, rootKeyIds } = await import('@aegis/protocol/access/trust-bundle');
  const { withSignature } = await import('@aegis/protocol/access/dsse');
  const roots = [draft.before.payload, draft.payload].flatMap((payload) => rootKeyIds(readTrustPayload(payload).root));
  if (!roots.includes(key.keyId))
    throw new AegisError(
      'access.bad_key',
      `The key ${key.keyId.slice(0, 16)} is none of the root's, neither of the present one nor of the next. Sign with one of those.`,
    );
  const { signatures } = withSignature(envelopeOf(draft), key);
  return { ...draft, signatures };
};

/** A key of the root's from its file: the PEM that `aegis server init` wrote, or a secret key of minisign's.
 *  @throws AegisError config.invalid, access.bad_key, access.bad_password */
export const rootKeyFrom = async (path: string, passwordFile: string | undefined, output: Output): Promise<KeyPair> => {
  const text = readKeyFile(path);
  if (text.includes('PRIVATE KEY')) {
    const { keyPairFromPem } = await import('@aegis/protocol/access/keys');
    try {
      return keyPairFromPem(text);
    } catch {
      throw new AegisError('access.bad_key', `${path} is damaged, or no Ed25519 key.`); // without the cause, which could quote the key
    }
  }
  const { isEncryptedSecretKey, parseMinisignSecretKey } = await import('@aegis/protocol/access/minisign-secret-key');
  const password = isEncryptedSecretKey(text)
    ? await readPassword(output, passwordFile, `Password of ${plainText(path)}:`)
    : null;
  return parseMinisignSecretKey(text, password);
};

export interface Published {
  trust_version: number;
  head: string;
  root_fingerprint: string;
  expires_at: string;
}

/** Drafts a change at the server and puts it in force; where signatures lack, writes it to `out`.
 *  @param signed signs it here, once it has looked at what came
 *  @returns null where somebody has to sign yet
 *  @throws AegisError access.root_key_absent where there is no `out` */
export const settle = async (
  api: Api,
  change: TrustChange,
  {
    out,
    signed: signedHere,
  }: { out: string | undefined; signed?: ((draft: TrustDraft) => Promise<TrustDraft>) | undefined },
): Promise<Published | null> => {
  const drafted = await api.call(routes.draftTrust, { body: change });
  const draft = signedHere ? await signedHere(drafted) : drafted;
  const signed = await signaturesOf(draft);
  if (signed.enough) return api.call(routes.publishTrust, { body: { trust_bundle: envelopeOf(draft) } });
  if (out === undefined)
    throw new AegisError(
      'access.root_key_absent',
      `${missing(signed)}, and without it nothing changes. Give --out FILE, have the file signed ('aegis access trust sign') and publish it.`,
    );
  writeNewDraft(out, draft);
  return null;
};

/** What is not there yet, for people. */
export const missing = ({ root, next_root }: Signed): string => {
  const of = (name: string, { count, threshold }: Signed['root']): string[] =>
    count < threshold ? [`${count} of ${threshold} signatures of the ${name} are there`] : [];
  const lacks = [...of('root', root), ...(next_root ? of('next root', next_root) : [])];
  return lacks.length > 0 ? lacks.join(', ') : 'all signatures are there';
};
