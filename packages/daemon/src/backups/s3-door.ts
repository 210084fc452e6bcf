import { Agent as HttpAgent, request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import type { Agent as HttpsAgent } from 'node:https';

/** One HTTP exchange with an S3 server: a body that is read while it is sent, an answer that is small, or read while it comes. What is sent
 *  was signed elsewhere (s3-signer.ts); this knows no credential. Plain node:http: docs/decisions/0015 says why no SDK. */

export interface S3Exchange {
  method: string;
  url: string;
  headers: Readonly<Record<string, string>>;
  /** Sent as it comes; all of `length`. */
  body?: { length: number; read(): AsyncIterable<Buffer> } | undefined;
  signal: AbortSignal;
  /** Takes the body of a 2xx answer; `S3Answer.body` is then empty. */
  sink?: ((bytes: Buffer) => void | Promise<void>) | undefined;
}
export interface S3Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: Buffer;
}
export type S3Door = ((exchange: S3Exchange) => Promise<S3Answer>) & { close(): void };

/** The exchange came to no answer: worth another try. */
export class S3Broken extends Error {
  override readonly name = 'S3Broken';
}

const MAX_ANSWER_BYTES = 1024 * 1024;

/** @param stallMs how long an exchange may stand still */
export const s3Door = ({ ca, stallMs }: { ca: string | undefined; stallMs: number }): S3Door => {
  const options = { keepAlive: true, maxFreeSockets: 4, scheduling: 'lifo' } as const;
  const plain = new HttpAgent(options);
  // Loaded when it is needed, as in platform/http.
  const https = () => process.getBuiltinModule('node:https');
  let secure: HttpsAgent | null = null;
  const secureAgent = (): HttpsAgent => {
    secure ??= new (https().Agent)({ ...options, ...(ca === undefined ? {} : { ca }), minVersion: 'TLSv1.2' });
    return secure;
  };

  const exchange = async ({ method, url, headers, body, signal, sink }: S3Exchange): Promise<S3Answer> => {
    const settings = { method, headers: { ...headers, ...(body ? { 'content-length': String(body.length) } : {}) } };
    const request = url.startsWith('https:')
      ? https().request(url, { ...settings, agent: secureAgent() })
      : httpRequest(url, { ...settings, agent: plain });
    const onAbort = (): void => void request.destroy(new S3Broken('aborted'));
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    request.setTimeout(stallMs, () => void request.destroy(new S3Broken(`it stood still for ${stallMs} ms`)));
    let answered = false;
    const answer = new Promise<IncomingMessage>((resolve, reject) => {
      request.on('response', (message: IncomingMessage) => {
        answered = true;
        message.on('error', () => undefined); // told by whoever reads it
        resolve(message);
      });
      request.on('error', reject);
      request.on('close', () => reject(new S3Broken('the connection was closed')));
    });
    answer.catch(() => undefined);
    try {
      if (body) await send(body.read());
      else request.end();
      const message = await answer;
      const { statusCode: status = 0 } = message;
      const bytes = await readBody(message, status >= 200 && status <= 299 ? sink : undefined);
      return { status, headers: message.headers, body: bytes };
    } catch (error) {
      throw error instanceof S3Broken ? error : brokenBy(error);
    } finally {
      signal.removeEventListener('abort', onAbort);
      if (!request.writableFinished) request.destroy(); // an answer before all was sent: this connection is of no use any more
    }

    async function send(chunks: AsyncIterable<Buffer>): Promise<void> {
      for await (const chunk of chunks) {
        // An S3 server that refuses says so before it has read everything.
        if (answered || request.destroyed) return;
        if (!request.write(chunk)) await Promise.race([drained(), answer.catch(() => undefined)]);
      }
      request.end();
    }
    function drained(): Promise<void> {
      return new Promise((resolve) => request.once('drain', resolve));
    }
  };
  return Object.assign(exchange, {
    close: () => {
      plain.destroy();
      secure?.destroy();
    },
  });
};

/** What the local side throws (a file that cannot be read) is not the network's doing. */
const brokenBy = (error: unknown): unknown => {
  if (!(error instanceof Error) || !('code' in error)) return error;
  const { code, syscall } = error as NodeJS.ErrnoException;
  const local = syscall === 'read' && code !== 'ECONNRESET' && code !== 'ETIMEDOUT';
  return local && 'path' in error ? error : new S3Broken(error.message, { cause: error });
};

const readBody = async (message: IncomingMessage, sink: S3Exchange['sink']): Promise<Buffer> => {
  const parts: Buffer[] = [];
  let length = 0;
  for await (const part of message as AsyncIterable<Buffer>) {
    if (sink) {
      await sink(part);
      continue;
    }
    length += part.length;
    if (length > MAX_ANSWER_BYTES) {
      message.destroy();
      throw new S3Broken(`the answer is larger than ${MAX_ANSWER_BYTES} bytes`);
    }
    parts.push(part);
  }
  if (!message.complete) throw new S3Broken('the answer broke off');
  return Buffer.concat(parts);
};
