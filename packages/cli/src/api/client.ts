import { type ClientRequest, Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import type { Agent, AgentOptions } from 'node:https';
import type { ProxySettings } from '@aegis/protocol/channel/proxy';
import type { BodyOf, Endpoint, ParamsOf, ResponseOf } from '@aegis/protocol/endpoint';
import { pathOf } from '@aegis/protocol/endpoint';
import { AegisError, type ErrorCode, isErrorCode } from '@aegis/protocol/errors';
import { VERSION } from '@aegis/protocol/version';
import { plainText } from '../ui/plain-text.ts';
import type { Route } from './routes.ts';

/** One server over kept connections. node:http, and node:https only for an https server: docs/decisions/0003. */

export interface ServerSettings {
  url: URL;
  token: string | null;
  /** PEM of a certificate authority that is trusted beside the system's. */
  ca: string | null;
  /** Hex SHA-256 of the one certificate, or of its key, that is accepted (besides what `ca` vouches for). */
  fingerprint: string | null;
  /** What is shown to a server that asks for a certificate (PEM). */
  client: { cert: string; key: string } | null;
  proxy: ProxySettings;
}

type Query = Readonly<Record<string, string | number | boolean | undefined>>;
interface Call<E extends Endpoint> {
  params?: ParamsOf<E> extends Record<string, string> ? ParamsOf<E> : never;
  query?: Query;
  body?: Partial<BodyOf<E>>;
  headers?: Readonly<Record<string, string>>;
  signal?: AbortSignal;
}

export interface Api {
  readonly url: URL;
  /** @throws AegisError with the server's own code, `cli.unreachable`, or `http.internal` when it is no Aegis server */
  call<E extends Endpoint>(route: Route<E>, call?: Call<E>): Promise<ResponseOf<E>>;
  /** The answer's body, to be read or destroyed by the caller. @throws AegisError as `call` */
  open<E extends Endpoint>(route: Route<E>, call?: Call<E>): Promise<IncomingMessage>;
  close(): void;
}

/** Whether the server may have acted on a request that failed like this. */
export const mayHaveArrived = (error: unknown): boolean =>
  error instanceof AegisError && error.code === 'cli.unreachable' && error.details.sent === true;

const CONNECT_MS = 10_000;
const ANSWER_MS = 60_000;
const MAX_ANSWER_BYTES = 256 * 1024 * 1024;

export const serverApi = async (settings: ServerSettings): Promise<Api> => {
  const { url, token } = settings;
  const tls = url.protocol === 'https:';
  const https = tls ? await import('node:https') : null;
  const options = { keepAlive: true, maxSockets: 64, keepAliveMsecs: 10_000 };
  const agent = https ? await securedAgent(options, settings) : new HttpAgent(options);
  const request = https?.request ?? httpRequest;

  const send = <E extends Endpoint>(route: Route<E>, call: Call<E>): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      const body = call.body === undefined ? null : Buffer.from(JSON.stringify(call.body), 'utf8');
      const headers = {
        accept: 'application/json',
        'user-agent': `aegis-cli/${VERSION}`,
        ...(token ? { authorization: `Bearer ${token}` } : {}),
        ...(body ? { 'content-type': 'application/json', 'content-length': body.length } : {}),
        ...call.headers,
      };
      const target = new URL(pathOf(route, call.params ?? {}) + queryText(call.query), url);
      const outgoing: ClientRequest = request(target, {
        method: route.method,
        agent,
        headers,
        ...(call.signal ? { signal: call.signal } : {}),
      });
      let connected = false;
      const timer = setTimeout(() => outgoing.destroy(new Error('no answer in time')), CONNECT_MS);
      outgoing.on('socket', (socket) => {
        const ready = () => {
          connected = true;
          socket.setKeepAlive(true, 10_000);
          clearTimeout(timer);
          outgoing.setTimeout(ANSWER_MS, () => outgoing.destroy(new Error('no answer in time')));
        };
        if (tls || outgoing.reusedSocket) ready();
        else socket.once('connect', ready);
      });
      outgoing.on('response', (response) => {
        clearTimeout(timer);
        outgoing.setTimeout(0);
        resolve(response);
      });
      outgoing.on('error', (cause: NodeJS.ErrnoException) => {
        clearTimeout(timer);
        reject(unreachable(url, cause, connected));
      });
      outgoing.end(body ?? undefined);
    });

  /** A kept connection that the server had just closed says nothing about the server: a read is asked once more. */
  const ask = async <E extends Endpoint>(route: Route<E>, call: Call<E>): Promise<IncomingMessage> => {
    try {
      return await send(route, call);
    } catch (error) {
      if (route.method === 'GET' && mayHaveArrived(error) && !call.signal?.aborted) return await send(route, call);
      throw error;
    }
  };

  const open = async <E extends Endpoint>(route: Route<E>, call: Call<E> = {}): Promise<IncomingMessage> => {
    const response = await ask(route, call);
    const status = response.statusCode ?? 0;
    if (status >= 200 && status < 300) return response;
    throw refusal(url, status, response.headers['retry-after'], await textOf(url, response));
  };

  return {
    url,
    open,
    call: async (route, call = {}) => parsed(url, await textOf(url, await open(route, call))),
    close: () => agent.destroy(),
  };
};

const securedAgent = async (
  options: AgentOptions,
  { ca, fingerprint, client, proxy }: ServerSettings,
): Promise<Agent> => {
  const { secureAgent } = await import('@aegis/protocol/channel/secure-connect');
  const { rootCertificates } = await import('node:tls');
  const trust = {
    ...(ca === null ? {} : { ca: [...rootCertificates, ca] }),
    ...(fingerprint === null ? {} : { pinned: { fingerprint } }),
    ...(client === null ? {} : { client }),
  };
  return secureAgent(options, { trust, proxy });
};

const queryText = (query: Query = {}): string => {
  const given = Object.entries(query).filter(([, value]) => value !== undefined);
  return given.length > 0
    ? `?${new URLSearchParams(given.map(([key, value]): [string, string] => [key, String(value)]))}`
    : '';
};

/** Of @aegis/protocol/channel/secure-connect, which is loaded for https alone. */
const OTHER_CERTIFICATE = 'AEGIS_OTHER_CERTIFICATE';
const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing listens there',
  ENOTFOUND: 'no such host',
  EAI_AGAIN: 'the name could not be looked up',
  EHOSTUNREACH: 'no route to it',
  ENETUNREACH: 'no route to it',
  ETIMEDOUT: 'no answer in time',
  ECONNRESET: 'the connection broke',
  EPIPE: 'the connection broke',
  SELF_SIGNED_CERT_IN_CHAIN: "its certificate's authority is unknown; name it with --tls-ca",
  DEPTH_ZERO_SELF_SIGNED_CERT:
    'its certificate is self-signed; name it with --tls-ca, or pin it with AEGIS_TLS_FINGERPRINT',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "its certificate's authority is unknown; name it with --tls-ca",
  CERT_HAS_EXPIRED: 'its certificate has expired',
  CERT_NOT_YET_VALID: "its certificate is not valid yet; is this machine's clock right?",
  [OTHER_CERTIFICATE]: 'its certificate is not the pinned one; somebody else answers there, or it has a new key',
  ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another name',
};

export const unreachable = (url: URL, cause: NodeJS.ErrnoException, sent: boolean): AegisError => {
  const reason = REASONS[cause.code ?? ''] ?? cause.message ?? 'unknown reason';
  return new AegisError(
    'cli.unreachable',
    `Cannot reach the server at ${url.origin} (${reason}). Start it with 'aegis server start', or name another with --server or AEGIS_SERVER.`,
    { cause, details: { server: url.origin, sent } },
  );
};

const textOf = async (url: URL, response: IncomingMessage): Promise<string> => {
  const pieces: Buffer[] = [];
  let size = 0;
  try {
    for await (const piece of response as AsyncIterable<Buffer>) {
      size += piece.length;
      if (size > MAX_ANSWER_BYTES) throw new AegisError('http.internal', `The answer of ${url.origin} has no end.`);
      pieces.push(piece);
    }
  } catch (cause) {
    if (cause instanceof AegisError) throw cause;
    throw unreachable(url, cause instanceof Error ? cause : new Error(String(cause)), true);
  }
  return Buffer.concat(pieces).toString('utf8');
};

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

/** The shape is the server's promise; the CLI checks only that it is JSON at all, and escapes what it prints. */
const parsed = <T>(url: URL, text: string): T => {
  try {
    return JSON.parse(text) as T;
  } catch {
    throw new AegisError('http.internal', `${url.origin} did not answer as an Aegis server does. Is the URL right?`);
  }
};

const BY_STATUS: Readonly<Record<number, ErrorCode>> = {
  400: 'http.malformed',
  401: 'access.unauthenticated',
  403: 'access.forbidden',
  404: 'http.not_found',
  405: 'http.method_not_allowed',
  413: 'http.too_large',
  415: 'http.unsupported_media_type',
  429: 'http.rate_limited',
  503: 'http.unavailable',
};

/** What /healthz says in place of an error. */
const unhealthy = (url: URL, parts: unknown, more: { retryAfterSec?: number }): AegisError => {
  const failing = Array.isArray(parts) ? parts.map((part) => plainText(String(part))) : [];
  return new AegisError(
    'http.unavailable',
    `The server at ${url.origin} is up but unhealthy: ${failing.join(', ') || 'a part of it'} fails. Its log says why.`,
    { ...more, details: { status: 'unhealthy', failing } },
  );
};

const whereTokensGo = (said: string): string => {
  const made = said.includes("'aegis server token'") ? ' Put it' : " Make a token with 'aegis server token' and put it";
  return `${made} into AEGIS_TOKEN, a file (--token-file) or a context.`;
};

const refusal = (url: URL, status: number, retryAfter: string | undefined, text: string): AegisError => {
  const seconds = Number(retryAfter);
  const more = retryAfter !== undefined && Number.isFinite(seconds) ? { retryAfterSec: Math.max(0, seconds) } : {};
  try {
    const body: unknown = JSON.parse(text);
    if (isRecord(body) && body.status === 'unhealthy') return unhealthy(url, body.failing, more);
    const error = isRecord(body) && isRecord(body.error) ? body.error : {};
    if (typeof error.code === 'string' && typeof error.message === 'string') {
      const code = isErrorCode(error.code) ? error.code : (BY_STATUS[status] ?? 'http.internal');
      const details = isRecord(error.details) ? error.details : {};
      const next = code === 'access.unauthenticated' ? whereTokensGo(error.message) : '';
      return new AegisError(code, plainText(error.message) + next, { ...more, details });
    }
  } catch {
    // Not JSON: a proxy's page, or no Aegis server. The status has to do.
  }
  const code = BY_STATUS[status] ?? 'http.internal';
  return new AegisError(
    code,
    `${url.origin} answered ${status}, and not as an Aegis server does. Is the URL right?`,
    more,
  );
};
