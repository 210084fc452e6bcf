import { promisify } from 'node:util';
import { constants as zlibConstants, zstdCompress } from 'node:zlib';
import { type BodyOf, type Endpoint, pathOf, type ResponseOf } from '@aegis/protocol/endpoint';
import { AegisError, type ErrorDetails, isErrorCode } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import * as z from 'zod/mini';
import type { BodySink, HttpAnswer, HttpDoor } from './door.ts';

/** The server was not reached, is overloaded or going away: the same call may succeed later. Never shown to an operator.
 *  Where the server said why, that is the cause: an AegisError. */
export class Unreachable extends Error {
  override readonly name = 'Unreachable';
  readonly retryAfterMs: number;
  constructor(message: string, retryAfterMs = 0, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.retryAfterMs = retryAfterMs;
  }
}

export interface CallOptions<E extends Endpoint> {
  params?: Record<string, string>;
  query?: Record<string, string | number>;
  body?: E extends { rawBody: true } ? Uint8Array : BodyOf<E>;
  timeoutMs?: number;
  signal?: AbortSignal;
  /** False for what answers anyone. */
  authorised?: boolean;
  /** Takes the answer's bytes as they come, for an endpoint without a response schema. An AegisError that it throws passes through. */
  sink?: BodySink;
}

export interface HttpClient {
  /** One attempt (two after a 401, with a fresh token between).
   *  @throws Unreachable, or AegisError with the server's own code */
  call<E extends Endpoint>(endpoint: E, options?: CallOptions<E>): Promise<ResponseOf<E>>;
}

export interface ClientOptions {
  /** Origin, without a path. */
  server: string;
  door: HttpDoor;
  faults: FaultPoints;
  userAgent: string;
  compress: boolean;
  /** Absent while there is no identity yet. */
  token?: { current(): string | null; renew(): Promise<void> };
}

const DEFAULT_TIMEOUT_MS = 30_000;
/** However long the other side says that it is away: one odd answer must not silence a node for days. */
export const MAX_RETRY_AFTER_MS = 3_600_000;
const COMPRESS_FROM_BYTES = 1024;
const compressZstd = promisify(zstdCompress);
const RETRY_LATER = new Set([408, 425, 429, 500, 502, 503, 504]);

export const httpClient = ({ server, door, faults, userAgent, compress, token }: ClientOptions): HttpClient => {
  const encode = async (body: unknown): Promise<{ bytes?: Uint8Array; headers: Record<string, string> }> => {
    if (body === undefined) return { headers: {} };
    const raw = body instanceof Uint8Array;
    const bytes = raw ? body : Buffer.from(JSON.stringify(body));
    const headers = { 'content-type': raw ? 'application/octet-stream' : 'application/json' };
    if (!compress || bytes.length < COMPRESS_FROM_BYTES) return { bytes, headers };
    const packed = await compressZstd(bytes, { params: { [zlibConstants.ZSTD_c_compressionLevel]: 1 } });
    if (packed.length > bytes.length * 0.9) return { bytes, headers };
    return { bytes: packed, headers: { ...headers, 'content-encoding': 'zstd' } };
  };

  const exchange = async <E extends Endpoint>(endpoint: E, options: CallOptions<E>): Promise<HttpAnswer> => {
    const { params = {}, query = {}, body, timeoutMs = DEFAULT_TIMEOUT_MS, signal, authorised = true, sink } = options;
    const search = new URLSearchParams(
      Object.entries(query).map(([key, value]): [string, string] => [key, String(value)]),
    ).toString();
    const url = `${server}${pathOf(endpoint, params)}${search ? `?${search}` : ''}`;
    const { bytes, headers } = await encode(body);
    const bearer = authorised ? token?.current() : null;
    if (bearer) headers.authorization = `Bearer ${bearer}`;
    headers['user-agent'] = userAgent;
    faults.at(`daemon.before-send.${endpoint.id}`);
    let answer: HttpAnswer;
    try {
      answer = await door({ method: endpoint.method, url, headers, body: bytes, timeoutMs, signal, sink });
    } catch (cause) {
      if (cause instanceof AegisError) throw cause;
      throw new Unreachable(`${endpoint.id}: ${cause instanceof Error ? cause.message : String(cause)}`, 0, cause);
    }
    faults.at(`daemon.after-send.${endpoint.id}`);
    return answer;
  };

  return {
    call: async (endpoint, options = {}) => {
      let answer = await exchange(endpoint, options);
      if (answer.status === 401 && token && options.authorised !== false) {
        await token.renew();
        answer = await exchange(endpoint, options);
      }
      if (answer.status < 200 || answer.status > 299) throw refusal(endpoint.id, answer);
      return decode(endpoint, answer.body);
    },
  };
};

const decode = <E extends Endpoint>(endpoint: E, body: Buffer): ResponseOf<E> => {
  if (!endpoint.response) return undefined as ResponseOf<E>;
  try {
    return z.parse(endpoint.response, JSON.parse(body.toString('utf8'))) as ResponseOf<E>;
  } catch (cause) {
    throw new Unreachable(`${endpoint.id}: the answer is not what the protocol says`, 0, cause);
  }
};

const refusal = (id: string, { status, headers, body }: HttpAnswer): Error => {
  const retryAfterMs = Math.min(MAX_RETRY_AFTER_MS, Math.max(0, Number(headers['retry-after'] ?? 0) * 1000)) || 0;
  const error = errorOf(body);
  const told = error
    ? new AegisError(error.code, error.message, { details: { ...error.details, status, date: headers.date } })
    : null;
  if (told && !RETRY_LATER.has(status)) return told;
  return new Unreachable(`${id}: answered ${status}${told ? ` ${told.code}` : ''}`, retryAfterMs, told ?? undefined);
};

const ErrorAnswer = z.object({
  error: z.object({ code: z.string(), message: z.string(), details: z.optional(z.record(z.string(), z.unknown())) }),
});

const errorOf = (body: Buffer) => {
  try {
    const { error } = z.parse(ErrorAnswer, JSON.parse(body.toString('utf8')));
    if (!isErrorCode(error.code)) return null;
    return { code: error.code, message: error.message, details: (error.details ?? {}) as ErrorDetails };
  } catch {
    return null; // a proxy's page or a broken answer: worth another try, never worth believing
  }
};
