import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { AegisError } from '@aegis/protocol/errors';

/** Signing through a Vault server's transit engine (https://developer.hashicorp.com/vault/api-docs/secret/transit#sign-data). The token
 *  stands in a header and nowhere else: not in an error, not in a log, not on a command line. */

export interface VaultSettings {
  /** VAULT_ADDR */
  address: URL;
  /** VAULT_TOKEN */
  token: string;
  /** VAULT_NAMESPACE */
  namespace: string | undefined;
  /** PEM of VAULT_CACERT. */
  ca: string | undefined;
  timeoutMs: number;
}

const DEFAULT_ADDRESS = 'https://127.0.0.1:8200';
const DEFAULT_TIMEOUT_SEC = 60;
const MAX_ANSWER_BYTES = 64 * 1024;
const SIGNATURE = /^vault:v[1-9]\d{0,9}:[A-Za-z0-9+/]{86}==$/;
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

/** From the variables of the stock client. @throws AegisError cli.usage */
export const vaultSettings = (
  env: Readonly<Record<string, string | undefined>>,
  readCertificate: (path: string) => string,
): VaultSettings => {
  const text = env.VAULT_ADDR || DEFAULT_ADDRESS;
  const address = URL.canParse(text) ? new URL(text) : null;
  if (!address || !['http:', 'https:'].includes(address.protocol))
    throw new AegisError('cli.usage', 'VAULT_ADDR is no URL of a Vault server: write https://host:8200.');
  if (address.protocol === 'http:' && !LOOPBACK.test(address.hostname))
    throw new AegisError(
      'cli.usage',
      'VAULT_ADDR is http:// to another machine, and the token would travel readable for all: use https://.',
    );
  const token = env.VAULT_TOKEN ?? '';
  if (!/^[\x21-\x7e]{1,4096}$/.test(token))
    throw new AegisError('cli.usage', "VAULT_TOKEN is not set, or is no token: 'vault login' gives one.");
  const seconds = Number((env.VAULT_CLIENT_TIMEOUT ?? '').replace(/s$/, '') || DEFAULT_TIMEOUT_SEC);
  if (!(seconds > 0 && seconds <= 600))
    throw new AegisError('cli.usage', 'VAULT_CLIENT_TIMEOUT is no number of seconds up to 600.');
  return {
    address,
    token,
    namespace: env.VAULT_NAMESPACE || undefined,
    ca: env.VAULT_CACERT ? readCertificate(env.VAULT_CACERT) : undefined,
    timeoutMs: seconds * 1000,
  };
};

const failed = (why: string, details: Readonly<Record<string, unknown>> = {}): AegisError =>
  new AegisError('artifacts.vault_failed', why, { details });

/** @param key name of an ed25519 key of the transit engine @param mount where the engine is mounted
 *  @returns `vault:vN:<base64>`
 *  @throws AegisError artifacts.vault_failed */
export const vaultSign = async (
  statement: Uint8Array,
  key: string,
  mount: string,
  settings: VaultSettings,
): Promise<string> => {
  if (!/^[A-Za-z0-9._-]{1,128}$/.test(key) || !/^(?!.*\.\.)[A-Za-z0-9._/-]{1,256}$/.test(mount))
    throw new AegisError(
      'cli.usage',
      `'${mount}' and '${key}' are no mount and key of a Vault server's transit engine.`,
    );
  const path = `/v1/${mount.replace(/^\/+|\/+$/g, '')}/sign/${key}`;
  const { status, text } = await post(
    settings,
    path,
    JSON.stringify({ input: Buffer.from(statement).toString('base64') }),
  );
  const answer = jsonOf(text);
  if (status === 403)
    throw failed(
      `Vault does not let this token sign with '${key}': it needs 'update' on ${mount}/sign/${key}${saidBy(answer, settings.token)}.`,
      { status },
    );
  if (status === 404)
    throw failed(
      `Vault has nothing at ${path}: see 'vault list ${mount}/keys', or name the engine with --vault-mount.`,
      {
        status,
      },
    );
  if (status === 503) throw failed('Vault is sealed or not ready: unseal it, then try again.', { status });
  if (status < 200 || status > 299)
    throw failed(`Vault answered ${status}${saidBy(answer, settings.token)}. See its log.`, { status });
  const signature = signatureIn(answer);
  if (signature === null)
    throw failed(`Vault's answer is no Ed25519 signature: the key '${key}' has to be of type ed25519.`, { status });
  return signature;
};

const post = (settings: VaultSettings, path: string, body: string): Promise<{ status: number; text: string }> =>
  new Promise((resolve, reject) => {
    const { address, token, namespace, ca, timeoutMs } = settings;
    const secure = address.protocol === 'https:';
    const base = address.pathname.replace(/\/+$/, '');
    const outgoing = (secure ? httpsRequest : httpRequest)(new URL(base + path, address), {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
        'x-vault-request': 'true',
        'x-vault-token': token,
        ...(namespace === undefined ? {} : { 'x-vault-namespace': namespace }),
      },
      ...(secure && ca !== undefined ? { ca } : {}),
    });
    const end = (error: Error): void => {
      clearTimeout(timer);
      outgoing.destroy();
      reject(error);
    };
    const timer = setTimeout(
      () => end(failed(`Vault at ${address.origin} did not answer within ${timeoutMs / 1000} s. Is VAULT_ADDR right?`)),
      timeoutMs,
    );
    outgoing.on('error', (error: NodeJS.ErrnoException) =>
      end(failed(`Cannot reach Vault at ${address.origin} (${error.code ?? 'no reason given'}). Is VAULT_ADDR right?`)),
    );
    outgoing.on('response', (response) => {
      const pieces: Buffer[] = [];
      let size = 0;
      response.on('data', (piece: Buffer) => {
        size += piece.length;
        if (size > MAX_ANSWER_BYTES)
          end(failed(`What answers at ${address.origin} is no Vault server. Is VAULT_ADDR right?`));
        else pieces.push(piece);
      });
      response.on('error', () => end(failed(`The connection to Vault at ${address.origin} broke: try again.`)));
      response.on('end', () => {
        clearTimeout(timer);
        resolve({ status: response.statusCode ?? 0, text: Buffer.concat(pieces).toString('utf8') });
      });
    });
    outgoing.end(body);
  });

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

const jsonOf = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return null; // a proxy's page: the status has to do
  }
};

/** `{"errors": ["…"]}`, the first of them, bounded, and without the token where that was said back. */
const saidBy = (answer: unknown, token: string): string => {
  const [first] = isRecord(answer) && Array.isArray(answer.errors) ? answer.errors : [];
  return typeof first === 'string' && first !== ''
    ? ` (${first.replaceAll(token, '[VAULT_TOKEN]').replaceAll(/\s+/g, ' ').trim().slice(0, 200)})`
    : '';
};

const signatureIn = (answer: unknown): string | null => {
  const data = isRecord(answer) && isRecord(answer.data) ? answer.data : {};
  return typeof data.signature === 'string' && SIGNATURE.test(data.signature) ? data.signature : null;
};
