import { createHash } from 'node:crypto';
import type { ByteSource } from '@aegis/archive/backup/bytes';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import { type Clock, pause } from '../platform/clock.ts';
import { Unreachable } from '../platform/http/client.ts';
import type { Logger } from '../platform/log.ts';
import { type S3Answer, S3Broken, type S3Door } from './s3-door.ts';
import { EMPTY_SHA256, type S3Signer, type Wanted } from './s3-signer.ts';

/** A run's objects in a bucket: written create-only and in parts, read in ranges; each request signed anew and tried again while that may
 *  help. S3 refuses bytes that are not those of the signed SHA-256, so what it took is what was sent. */

export interface Body {
  bytes: number;
  sha256: string;
  read(): AsyncIterable<Buffer>;
}

export interface S3ObjectsOptions {
  door: S3Door;
  signer: S3Signer;
  /** How long one request is tried again. */
  retryMs: number;
  clock: Clock;
  random: () => number;
  faults: FaultPoints;
  log: Logger;
  signal: AbortSignal;
}

type Sink = (bytes: Buffer) => void;

export type S3Objects = ReturnType<typeof s3Objects>;

const FIRST_PAUSE_MS = 250;
const MAX_PAUSE_MS = 30_000;
/** A signature or a credential that the server of either side took for bad is made anew so often. */
const MAX_STALE = 3;
const PASSING_STATUS: readonly number[] = [408, 425, 429, 500, 502, 503, 504];
/** 400s and 403s that another try, or another signature, cures. */
const PASSING_CODE: readonly string[] = [
  'RequestTimeout',
  'RequestTimeTooSkewed',
  'IncompleteBody',
  'SlowDown',
  'InternalError',
  'ServiceUnavailable',
  'OperationAborted',
  'BadDigest',
  'XAmzContentSHA256Mismatch',
];
const STALE_CODE: readonly string[] = [
  'ExpiredToken',
  'RequestExpired',
  'InvalidAccessKeyId',
  'AccessDenied',
  'SignatureDoesNotMatch',
];
const MEANING: Readonly<Record<string, string>> = {
  RequestTimeTooSkewed:
    ': its clock and that of whoever signed, the control server or this node, are more than 15 minutes apart',
};

export const s3Objects = ({ door, signer, retryMs, clock, random, faults, log, signal }: S3ObjectsOptions) => {
  /** Tries until there is an answer that stays. */
  const request = async (
    what: string,
    wanted: Wanted,
    { body, sink, settles }: { body?: Body; sink?: () => Sink; settles?: readonly number[] } = {},
  ): Promise<S3Answer> => {
    const until = clock.monotonic() + retryMs;
    let stale = 0;
    for (let failures = 0; ; failures++) {
      let why: Error;
      try {
        const { url, headers } = await signer.sign(wanted);
        faults.at(`daemon.before-send.s3-${what}`);
        const answer = await door({
          method: wanted.method,
          url,
          headers: withoutHost(headers),
          body: body && { length: body.bytes, read: body.read },
          sink: sink?.(),
          signal,
        });
        faults.at(`daemon.after-send.s3-${what}`);
        if ((answer.status >= 200 && answer.status <= 299) || settles?.includes(answer.status)) return answer;
        const code = codeOf(answer);
        why = new S3Broken(`answered ${answer.status}${code === '' ? '' : ` ${code}`}${MEANING[code] ?? ''}`);
        const renewed = STALE_CODE.includes(code) && stale < MAX_STALE;
        if (renewed) {
          stale++;
          signer.stale();
        } else if (!PASSING_STATUS.includes(answer.status) && !PASSING_CODE.includes(code)) throw failed(what, why);
      } catch (error) {
        if (signal.aborted || !(error instanceof S3Broken || error instanceof Unreachable)) throw error;
        why = error;
      }
      const pauseMs = random() * Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(failures, 20));
      if (clock.monotonic() + pauseMs >= until) throw failed(what, why);
      if (failures === 0) log.warn({ err: why, request: what }, 'the S3 server did not take a request, trying again');
      await pause(pauseMs, signal);
      signal.throwIfAborted();
    }
  };

  const piece = async (key: string, from: number, to: number): Promise<Buffer> => {
    const bytes = Buffer.allocUnsafe(to - from);
    let at = 0;
    const sink = (): Sink => {
      at = 0;
      return (some) => {
        if (at + some.length > bytes.length) throw failed('get', new S3Broken('it sent more than was asked for'));
        at += some.copy(bytes, at);
      };
    };
    const headers = { range: `bytes=${from}-${to - 1}` };
    await request('get', { method: 'GET', key, headers, payload_sha256: EMPTY_SHA256 }, { sink });
    if (at !== bytes.length) throw failed('get', new S3Broken(`it sent ${at} bytes of ${bytes.length}`));
    return bytes;
  };

  return {
    /** The part's ETag. */
    putPart: async (key: string, uploadId: string, number: number, body: Body): Promise<string> => {
      const query = { partNumber: String(number), uploadId };
      const wanted: Wanted = { method: 'PUT', key, query, content_length: body.bytes, payload_sha256: body.sha256 };
      const { headers } = await request('part', wanted, { body });
      const { etag } = headers;
      if (etag === undefined || etag === '' || etag.length > 256)
        throw failed('part', new S3Broken('it named no ETag for a part'));
      return etag;
    },
    /** A whole object where there is none. One that is there already is fine when it is this one: an earlier try that nobody answered for. */
    create: async (what: string, key: string, body: Body, conditional: boolean): Promise<void> => {
      const headers: Record<string, string> = conditional ? { 'if-none-match': '*' } : {};
      const wanted: Wanted = { method: 'PUT', key, headers, content_length: body.bytes, payload_sha256: body.sha256 };
      const answer = await request(what, wanted, { body, settles: [412, 409] });
      if (answer.status < 300) return;
      let hash = createHash('sha256');
      let bytes = 0;
      const sink = (): Sink => {
        hash = createHash('sha256');
        bytes = 0;
        return (some) => {
          bytes += some.length;
          if (bytes > body.bytes) throw taken(key);
          hash.update(some);
        };
      };
      await request(`${what}-again`, { method: 'GET', key, payload_sha256: EMPTY_SHA256 }, { sink });
      if (bytes !== body.bytes || hash.digest('hex') !== body.sha256) throw taken(key);
    },
    /** At most `limit` bytes of an object. */
    small: async (key: string, limit: number): Promise<Buffer> => {
      let parts: Buffer[] = [];
      const sink = (): Sink => {
        parts = [];
        let bytes = 0;
        return (some) => {
          bytes += some.length;
          const why = `The object ${key} is larger than ${limit} bytes: it is no statement.`;
          if (bytes > limit) throw new AegisError('backups.bad_statement', why);
          parts.push(some);
        };
      };
      await request('get', { method: 'GET', key, payload_sha256: EMPTY_SHA256 }, { sink });
      return Buffer.concat(parts);
    },
    source: (key: string, size: number): ByteSource => ({
      size,
      read: (start, end) => readPieces(start, end, (from, to) => piece(key, from, to)),
    }),
  };
};

const PIECE_BYTES = 8 * 1024 * 1024;

/** The next piece is fetched while this one is worked on: two of them are in memory at most. */
async function* readPieces(
  start: number,
  end: number,
  fetch: (from: number, to: number) => Promise<Buffer>,
): AsyncGenerator<Buffer, void, undefined> {
  const at = (from: number): Promise<Buffer> | null => {
    if (from >= end) return null;
    const fetched = fetch(from, Math.min(end, from + PIECE_BYTES));
    fetched.catch(() => undefined); // told when it is its turn
    return fetched;
  };
  let next = at(start);
  for (let from = start; next; from += PIECE_BYTES) {
    const bytes = await next;
    next = at(from + PIECE_BYTES);
    yield bytes;
  }
}

/** Node sets it from the URL, which the signer made; a proxy in a test may stand elsewhere. */
const withoutHost = ({ host: _, ...rest }: Readonly<Record<string, string>>): Record<string, string> => rest;

const codeOf = ({ body }: S3Answer): string =>
  /<Code>([A-Za-z0-9]{1,64})<\/Code>/.exec(body.toString('latin1'))?.[1] ?? '';

const failed = (what: string, cause: Error): AegisError =>
  new AegisError(
    'backups.destination_failed',
    `The S3 server did not take the request '${what}' (${cause.message}): see that it is there, that the bucket is, and what its log says.`,
    { cause },
  );
const taken = (key: string): AegisError =>
  new AegisError(
    'backups.destination_failed',
    `Another object lies at ${key} already: nothing is overwritten. Find out who wrote it.`,
  );
