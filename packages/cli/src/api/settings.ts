import { readFileSync } from 'node:fs';
import { isProxyUrl, type ProxySettings, proxySettingsOf } from '@aegis/protocol/channel/proxy';
import { AegisError } from '@aegis/protocol/errors';
import { readContexts } from '../contexts.ts';
import type { ServerSettings } from './client.ts';

/** Which server, and as whom: flag > environment > context > http://127.0.0.1:8080. A context's token goes to that context's
 *  server alone: naming another server leaves it behind. */

export interface ServerFlags {
  server?: string | undefined;
  context?: string | undefined;
  'token-file'?: string | undefined;
  'tls-ca'?: string | undefined;
}

const DEFAULT_SERVER = 'http://127.0.0.1:8080';
type Env = Readonly<Record<string, string | undefined>>;

export const serverSettings = async (
  flags: ServerFlags,
  env: Env,
): Promise<ServerSettings & { origin: string; key: string | null }> => {
  const named = flags.server ?? (flags.context === undefined ? env.AEGIS_SERVER : undefined);
  const context = named ? null : await chosenContext(flags.context ?? env.AEGIS_CONTEXT, env);
  const url = checkedUrl(named ?? context?.server ?? DEFAULT_SERVER);
  const token = flags['token-file'] ? readToken(flags['token-file']) : (env.AEGIS_TOKEN ?? context?.token ?? null);
  const ca = flags['tls-ca'] ?? env.AEGIS_TLS_CA ?? context?.tls_ca ?? null;
  const origin = flags.server
    ? 'flag --server'
    : named
      ? 'env AEGIS_SERVER'
      : context
        ? `context ${context.name}`
        : 'default';
  const pin = env.AEGIS_TLS_FINGERPRINT || context?.tls_fingerprint;
  return {
    url,
    token: token ? checkedToken(token) : null,
    ca: ca ? readPem(ca) : null,
    fingerprint: pin ? checkedFingerprint(pin, 'AEGIS_TLS_FINGERPRINT or the context') : null,
    client: clientCertificate(env),
    proxy: checkedProxy(env),
    origin,
    key: context?.key ?? null,
  };
};

const chosenContext = async (wanted: string | undefined, env: Env) => {
  const { current, contexts } = await readContexts(env);
  const name = wanted ?? current;
  if (!name) return null;
  const context = Object.hasOwn(contexts, name) ? contexts[name] : undefined;
  if (!context)
    throw new AegisError(
      'cli.usage',
      `There is no context '${name}'. See 'aegis context list', or make it with 'aegis context set'.`,
    );
  return { name, ...context };
};

export const checkedUrl = (text: string): URL => {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (!url || (url.protocol !== 'http:' && url.protocol !== 'https:'))
    throw new AegisError('cli.usage', `'${text}' is not a server's URL; write http://host:port or https://host.`);
  if (url.username || url.password)
    throw new AegisError(
      'cli.usage',
      "A server's URL holds no user or password; use AEGIS_TOKEN, --token-file or a context.",
    );
  return url;
};

/** Reads the first line; `-` is standard input. */
export const readToken = (path: string): string => {
  const text =
    readText(path === '-' ? 0 : path, 'token')
      .split('\n', 1)[0]
      ?.trim() ?? '';
  if (text === '')
    throw new AegisError(
      'config.invalid',
      `${path === '-' ? 'Standard input' : path} holds no token in its first line.`,
    );
  return text;
};

/** Never repeats the token, which is a secret. */
const checkedToken = (token: string): string => {
  if (/^[\x21-\x7e]{1,4096}$/.test(token)) return token;
  throw new AegisError(
    'config.invalid',
    'The token has characters that no token has. Check AEGIS_TOKEN, the token file or the context.',
  );
};

const readPem = (path: string): string => {
  const text = readText(path, 'certificate');
  if (text.includes('-----BEGIN CERTIFICATE-----')) return text;
  throw new AegisError(
    'config.invalid',
    `${path} is not a PEM certificate. Give --tls-ca the authority's certificate file.`,
  );
};

/** As openssl prints it, too: in capitals, with colons. @param where it was given, for the refusal */
export const checkedFingerprint = (text: string, where: string): string => {
  const hex = text.replaceAll(':', '').toLowerCase();
  if (/^[0-9a-f]{64}$/.test(hex)) return hex;
  throw new AegisError(
    'cli.usage',
    `${where}: not a SHA-256. Take it from: openssl x509 -in cert.pem -noout -fingerprint -sha256`,
  );
};

const clientCertificate = (env: Env): ServerSettings['client'] => {
  const { AEGIS_TLS_CLIENT_CERT: cert, AEGIS_TLS_CLIENT_KEY: key } = env;
  if (!cert && !key) return null;
  if (!cert || !key)
    throw new AegisError('config.invalid', 'Set AEGIS_TLS_CLIENT_CERT and AEGIS_TLS_CLIENT_KEY together, or neither.');
  return { cert: readText(cert, 'certificate'), key: readText(key, 'key') };
};

const checkedProxy = (env: Env): ProxySettings => {
  const proxy = proxySettingsOf(env);
  if (proxy.httpsProxy === undefined || isProxyUrl(proxy.httpsProxy)) return proxy;
  throw new AegisError('config.invalid', 'HTTPS_PROXY is not an http:// or https:// address of a proxy.');
};

const readText = (path: string | 0, what: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? 'unknown reason';
    throw new AegisError('config.invalid', `The ${what} file ${path} cannot be read (${reason}).`);
  }
};
