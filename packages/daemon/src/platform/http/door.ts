import { Agent as HttpAgent, request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import type { Agent as HttpsAgent } from 'node:https';
import type { ProxySettings } from '@aegis/protocol/channel/proxy';
import { secureAgent, type TlsTrust } from '@aegis/protocol/channel/secure-connect';

/** One HTTP exchange, the only way out of this process to the server. Tests put a bad network in its place. */
export type HttpDoor = (request: HttpRequest) => Promise<HttpAnswer>;

export interface HttpRequest {
  method: string;
  /** Absolute. */
  url: string;
  headers: Record<string, string>;
  body?: Uint8Array | undefined;
  /** For the whole exchange. */
  timeoutMs: number;
  signal?: AbortSignal | undefined;
  /** Takes the body of a 2xx answer piece by piece; `HttpAnswer.body` is then empty. */
  sink?: BodySink | undefined;
}

export interface HttpAnswer {
  status: number;
  headers: IncomingHttpHeaders;
  body: Buffer;
}

export interface BodySink {
  /** A body begins: what came before belongs to an exchange that broke off. */
  begin(): void | Promise<void>;
  /** The next piece is read when this is done. Throws to break off, as when there is more than it takes. */
  write(part: Buffer): void | Promise<void>;
}

export const MAX_ANSWER_BYTES = 16 * 1024 * 1024;
const IDLE_SOCKET_MS = 55_000;

/** An exchange over node:http(s) with keep-alive. Rejects with a plain Error when the answer did not arrive whole. */
export const nodeHttpDoor = ({
  tls = {},
  proxy = {},
}: {
  tls?: TlsTrust;
  proxy?: ProxySettings;
} = {}): HttpDoor & { close(): void } => {
  const options = { keepAlive: true, maxSockets: 16, maxFreeSockets: 4, timeout: IDLE_SOCKET_MS };
  const plain = new HttpAgent(options);
  // Loaded when it is needed: TLS costs a daemon that talks to loopback 5 MB.
  const https = () => process.getBuiltinModule('node:https');
  let secure: HttpsAgent | null = null;
  const secured = (): HttpsAgent => {
    secure ??= secureAgent(options, { trust: tls, proxy });
    return secure;
  };

  const once = (asked: HttpRequest): Promise<HttpAnswer> =>
    new Promise((resolve, reject) => {
      const { method, url, headers, body, timeoutMs, signal } = asked;
      const settings = { method, headers: body ? { ...headers, 'content-length': String(body.length) } : headers };
      const timer = setTimeout(() => request.destroy(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
      const onAbort = (): void => void request.destroy(new Error('aborted'));
      const settle = (act: () => void): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        act();
      };
      const answered = (answer: IncomingMessage): void => {
        readBody(answer, asked.sink).then(
          (bytes) => settle(() => resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: bytes })),
          (error: unknown) => settle(() => reject(error)),
        );
      };
      const request = url.startsWith('https:')
        ? https().request(url, { ...settings, agent: secured() }, answered)
        : httpRequest(url, { ...settings, agent: plain }, answered);
      request.on('error', (error: NodeJS.ErrnoException) =>
        settle(() =>
          reject(Object.assign(error, { staleSocket: request.reusedSocket && error.code === 'ECONNRESET' })),
        ),
      );
      if (signal?.aborted) return onAbort();
      signal?.addEventListener('abort', onAbort, { once: true });
      request.end(body);
    });

  const exchange: HttpDoor = async (asked) => {
    try {
      return await once(asked);
    } catch (error) {
      // The server closed an idle connection just as we used it. Everything that we send may be sent twice.
      if (error instanceof Error && 'staleSocket' in error && error.staleSocket === true) return once(asked);
      throw error;
    }
  };
  return Object.assign(exchange, {
    close: () => {
      plain.destroy();
      secure?.destroy();
    },
  });
};

const readBody = async (answer: IncomingMessage, sink?: BodySink): Promise<Buffer> => {
  const { statusCode = 0 } = answer;
  if (sink && statusCode >= 200 && statusCode <= 299) {
    await sink.begin();
    for await (const part of answer as AsyncIterable<Buffer>) await sink.write(part); // leaving it destroys the answer
    if (!answer.complete) throw new Error('the answer broke off');
    return Buffer.alloc(0);
  }
  const parts: Buffer[] = [];
  let length = 0;
  for await (const part of answer as AsyncIterable<Buffer>) {
    length += part.length;
    if (length > MAX_ANSWER_BYTES) {
      answer.destroy();
      throw new Error(`the answer is larger than ${MAX_ANSWER_BYTES} bytes`);
    }
    parts.push(part);
  }
  if (!answer.complete) throw new Error('the answer broke off');
  return parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts);
};
