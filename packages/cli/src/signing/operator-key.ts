import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import type { Directive } from '@aegis/protocol/access/directive';
import type { Envelope } from '@aegis/protocol/access/dsse';
import type { KeyPair } from '@aegis/protocol/access/keys';
import type { OperatorKey } from '@aegis/protocol/access/operators';
import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { type ServerFlags, serverSettings } from '../api/settings.ts';
import { reasonOf } from '../new-file.ts';
import type { Surroundings } from '../surroundings.ts';
import { readPassword } from '../ui/ask-password.ts';
import { plainText } from '../ui/plain-text.ts';
import { knownFleet } from './known-fleets.ts';

/** The operator's own key: which file holds it, and how it signs. It never leaves this process; the server gets signatures. */

const SIGNING = 'SIGNING';
export const keyFlags = {
  key: Flags.string({
    helpValue: 'FILE',
    summary: "Sign with this secret key (default: AEGIS_KEY, or the context's)",
    helpGroup: SIGNING,
  }),
  'key-password-file': Flags.string({
    helpValue: 'FILE',
    summary: "Read the key's password from a file's first line (-: standard input; also AEGIS_KEY_PASSWORD_FILE)",
    helpGroup: SIGNING,
  }),
  unsigned: Flags.boolean({
    summary: 'Do not sign, though there is a key',
    exclusive: ['key'],
    helpGroup: SIGNING,
  }),
};
export interface KeyFlags extends ServerFlags {
  key?: string | undefined;
  'key-password-file'?: string | undefined;
  unsigned?: boolean | undefined;
}

export interface OperatorSigner {
  fleet: string;
  key: KeyPair;
  /** Whose signatures count, as the server shows it. */
  operators: ReadonlyMap<string, OperatorKey>;
  sign(directive: Directive): Promise<Envelope>;
}

type Around = Pick<Surroundings, 'env' | 'output'>;

const keyFileOf = async (flags: KeyFlags, env: Around['env']): Promise<string | null | undefined> =>
  flags.unsigned ? undefined : (flags.key ?? (env.AEGIS_KEY || (await serverSettings(flags, env)).key));

/** Whether what is changed would be signed, were it for operators to sign. */
export const hasKey = async (flags: ServerFlags, { env }: Pick<Surroundings, 'env'>): Promise<boolean> =>
  Boolean(await keyFileOf(flags, env));

/** For who signs elsewhere, and has changed something that strict nodes want signed: what to do next. Null where there is no key. */
export const signingNote = async (flags: ServerFlags, around: Around, object: string): Promise<string | null> =>
  (await hasKey(flags, around))
    ? `nodes that obey operators take it over once it is signed: aegis nodes sign NODE --kind backups.config --object ${plainText(object)}`
    : null;

/** Null where there is no key. @throws AegisError config.invalid, access.bad_key, access.bad_password, cli.usage */
export const operatorKey = async (flags: KeyFlags, { env, output }: Around): Promise<KeyPair | null> => {
  const file = await keyFileOf(flags, env);
  if (!file) return null;
  const text = readKeyFile(file);
  const { isEncryptedSecretKey, parseMinisignSecretKey } = await import('@aegis/protocol/access/minisign-secret-key');
  if (!isEncryptedSecretKey(text)) return await parseMinisignSecretKey(text, null);
  const passwordFile = flags['key-password-file'] ?? (env.AEGIS_KEY_PASSWORD_FILE || undefined);
  return await parseMinisignSecretKey(
    text,
    await readPassword(output, passwordFile, `Password of ${plainText(file)}:`),
  );
};

/** The key, and the fleet that this server is known to be. Null where there is no key.
 *  @throws AegisError as operatorKey, access.unknown_key, access.untrusted */
export const operatorSigner = async (api: Api, flags: KeyFlags, around: Around): Promise<OperatorSigner | null> => {
  const key = await operatorKey(flags, around);
  if (key === null) return null;
  const { trust_bundle } = await api.call(routes.showTrust, {});
  const { readTrustPayload } = await import('@aegis/protocol/access/trust-bundle');
  const { operatorKeysOf } = await import('@aegis/protocol/access/operators');
  const { PAYLOAD_TYPES, signEnvelope } = await import('@aegis/protocol/access/dsse');
  const bundle = readTrustPayload(trust_bundle.payload);
  const operators = operatorKeysOf(bundle);
  if (!operators.has(key.keyId))
    throw new AegisError(
      'access.unknown_key',
      `This fleet does not list your key ${key.keyId.slice(0, 16)} for operators. Have an admin run 'aegis access keys add YOUR.pub --usage operate --person YOU', or give --unsigned.`,
    );
  const { url } = await serverSettings(flags, around.env);
  const fleet = await knownFleet(around, url.origin, bundle.fleet);
  return { fleet, key, operators, sign: async (directive) => signEnvelope(PAYLOAD_TYPES.directive, directive, key) };
};

const MAX_KEY_BYTES = 64 * 1024;

/** The text of a secret key's file. @throws AegisError config.invalid, access.bad_key */
export const readKeyFile = (path: string): string => {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw new AegisError('config.invalid', `The key file ${path} cannot be read (${reasonOf(error)}).`);
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile() || stat.size > MAX_KEY_BYTES)
      throw new AegisError('access.bad_key', `${path} is no secret key. Make one with 'aegis access keys create'.`);
    if ((stat.mode & 0o077) !== 0)
      throw new AegisError(
        'config.invalid',
        `${path} can be read by others, and it is a secret key. Run: chmod 600 ${path}`,
      );
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
};
