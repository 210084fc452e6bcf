import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';
import type { ByteSource } from '@aegis/archive/backup/bytes';
import { AegisError } from '@aegis/protocol/errors';

/** An object in S3 behind a presigned link, read by ranges with node:http(s). The link is the server's word: it is asked for bytes and told
 *  nothing, no redirect is followed, and what comes is worth no more than the statement says of it. */

export interface Link {
  /** A fresh one after `true`. */
  url(anew: boolean): Promise<string>;
  /** PEM of a certificate authority that is trusted beside the system's. */
  ca: string | null;
}

const SILENCE_MS = 60_000;
const TRIES = 6;
const FIRST_PAUSE_MS = 200;
/** Timeouts and too much at once; 403 is an expired link. */
const MAY_PASS = new Set([408, 429, 500, 502, 503, 504]);
const MAX_OBJECT_BYTES = 5 * 1024 ** 4;

const failed = (what: string, cause?: unknown): AegisError =>
  new AegisError(
    'backups.destination_failed',
    `The storage of this backup ${what}. Try again, or see to the storage.`,
    {
      cause,
    },
  );

interface Answer {
  response: IncomingMessage;
  /** Of the whole object. */
  size: number;
}

/** Closes its connections when it is disposed of. */
export interface LinkedSource extends ByteSource, Disposable {}

/** @throws AegisError backups.destination_failed; so does its `read` */
export const linkedSource = async (link: Link, signal?: AbortSignal): Promise<LinkedSource> => {
  const { rootCertificates } = await import('node:tls');
  const https = await import('node:https');
  const options = { keepAlive: true, maxSockets: 8 };
  const plain = new HttpAgent(options);
  const tls = new https.Agent({ ...options, ...(link.ca === null ? {} : { ca: [...rootCertificates, link.ca] }) });

  const send = (text: string, from: number, to: number): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      const url = URL.canParse(text) ? new URL(text) : null;
      if (url?.protocol !== 'http:' && url?.protocol !== 'https:') return reject(new NoLink());
      const secure = url.protocol === 'https:';
      const outgoing = (secure ? https.request : httpRequest)(url, {
        agent: secure ? tls : plain,
        headers: { range: `bytes=${from}-${to - 1}`, 'accept-encoding': 'identity' },
        timeout: SILENCE_MS,
        ...(signal ? { signal } : {}),
      });
      outgoing.on('timeout', () => outgoing.destroy(new Error('no answer in time')));
      outgoing.on('error', reject);
      outgoing.on('response', resolve);
      outgoing.end();
    });

  /** The answer to a range, from its first byte on. */
  const open = async (from: number, to: number): Promise<Answer> => {
    let anew = false;
    for (let attempt = 1; ; attempt++) {
      try {
        return await rangeOf(await send(await link.url(anew), from, to), from);
      } catch (error) {
        if (error instanceof NoLink) throw failed('has no address that can be asked', error);
        if (error instanceof AegisError || signal?.aborted || attempt === TRIES || isCertificate(error))
          throw asFailure(error);
        anew = error instanceof Refused && error.status === 403;
        if (error instanceof Refused && !(anew ? attempt < 3 : MAY_PASS.has(error.status))) throw asFailure(error);
        await pause(FIRST_PAUSE_MS * 2 ** (attempt - 1), undefined, signal ? { signal } : {});
      }
    }
  };

  async function* read(start: number, end: number): AsyncGenerator<Buffer, void, undefined> {
    let at = start;
    let breaks = 0;
    while (at < end) {
      const { response } = await open(at, end);
      try {
        for await (const piece of response as AsyncIterable<Buffer>) {
          const wanted = piece.subarray(0, end - at);
          at += wanted.length;
          breaks = 0;
          yield wanted;
          if (at === end) break;
        }
        if (at < end) throw new Error('it ended too early');
      } catch (error) {
        if (error instanceof AegisError || signal?.aborted || ++breaks === TRIES) throw asFailure(error);
      } finally {
        if (!response.readableEnded) response.destroy();
      }
    }
  }

  const close = (): void => {
    plain.destroy();
    tls.destroy();
  };
  try {
    const { response, size } = await open(0, 1);
    response.resume();
    return { size, read, [Symbol.dispose]: close };
  } catch (error) {
    close();
    throw error;
  }
};

/** What no second try makes better. */
const isCertificate = (error: unknown): boolean =>
  /CERT|SELF_SIGNED|UNABLE_TO_/.test((error as NodeJS.ErrnoException).code ?? '');

class NoLink extends Error {}
class Refused extends Error {
  readonly status: number;
  constructor(status: number) {
    super(`it answers ${status}`);
    this.status = status;
  }
}

const asFailure = (error: unknown): unknown => {
  if (error instanceof AegisError) return error;
  if (error instanceof Refused && error.status === 404) return failed('does not have it any more', error);
  const why = error instanceof Error ? ((error as NodeJS.ErrnoException).code ?? error.message) : String(error);
  return failed(`does not give it (${why})`, error);
};

/** @throws Refused, or AegisError where a second try would meet the same */
const rangeOf = async (response: IncomingMessage, from: number): Promise<Answer> => {
  const { statusCode = 0, headers } = response;
  const whole = /^bytes (\d+)-\d+\/(\d+)$/.exec(headers['content-range'] ?? '');
  const size = Number(whole?.[2] ?? Number.NaN);
  if (statusCode === 206 && Number(whole?.[1]) === from && size <= MAX_OBJECT_BYTES) return { response, size };
  response.destroy();
  // An object of no bytes has no range.
  if (statusCode === 416 && from === 0) throw failed('holds an empty object');
  throw statusCode === 206 || statusCode === 200 ? failed('does not know ranges') : new Refused(statusCode);
};
