import { Agent, createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';

/** A proxy in front of an S3 server that misbehaves by name, for single requests or for all, and that knows what passed. The Host header
 *  passes as it came, so that signatures made for the proxy's address hold at the server behind it. Bodies stream through. */

export interface SeenRequest {
  readonly method: string;
  /** As sent. */
  readonly url: string;
  /** Decoded, with the bucket in front. */
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingMessage['headers'];
  /** Of the answer that was given; null while there is none, and where none was given. */
  status: number | null;
  fault: string | null;
}
/** `ask`: the request as S3 would have seen it. */
export type Misbehaviour =
  /** An error of S3's own, without asking S3. */
  | { answer: number; code: string; headers?: Readonly<Record<string, string>>; body?: string }
  /** No answer until `mend`, or for as long as the client waits. */
  | 'hang'
  /** The connection breaks before S3 hears of it. */
  | 'reset'
  /** S3 does it; the connection breaks before the answer. */
  | 'lose-answer'
  /** Half of the body reaches S3, then the connection breaks. */
  | 'truncate-request'
  /** Half of the answer's body reaches the client. */
  | 'truncate-answer'
  /** S3 does it; the answer's ETag is of something else. */
  | 'wrong-etag'
  /** One byte of the answer's body is altered. */
  | 'alter-answer'
  /** Whatever the test wants. */
  | ((from: IncomingMessage, to: ServerResponse) => void);

export const INTERNAL_ERROR = { answer: 500, code: 'InternalError' } as const;
export const SLOW_DOWN = { answer: 503, code: 'SlowDown' } as const;

export interface HostileS3 extends AsyncDisposable {
  /** What clients are told. */
  readonly url: string;
  /** Every request so far, in the order in which they came. */
  readonly seen: SeenRequest[];
  /** Misbehaves for the requests that `which` names (default: all), for as many of them as `times` says (default: until `mend`). */
  misbehave(how: Misbehaviour, which?: (ask: SeenRequest) => boolean, times?: number): void;
  /** All is well again; what hung is broken off. */
  mend(): void;
  /** No connection comes about, and those that are there break, until `mend`. */
  cut(): void;
  /** From now on each byte that passes, in either direction, heads and bodies, is searched for this. */
  watch(secret: string): void;
  /** Of those, what was found. */
  readonly found: ReadonlySet<string>;
}

interface Rule {
  how: Misbehaviour;
  which: (ask: SeenRequest) => boolean;
  left: number;
}

export const startHostileS3 = async (
  upstream: string,
  { tls, port = 0 }: { tls?: { key: string; cert: string }; port?: number } = {},
): Promise<HostileS3> => {
  const target = new URL(upstream);
  const agent = new Agent({ keepAlive: true, maxSockets: 128 });
  const sockets = new Set<Socket>();
  const seen: SeenRequest[] = [];
  const secrets = new Set<string>();
  const found = new Set<string>();
  let rules: Rule[] = [];
  let isCut = false;
  let hanging: Socket[] = [];

  const look = (text: string): void => {
    for (const secret of secrets) if (text.includes(secret)) found.add(secret);
  };
  const searched = (): Transform => {
    let tail = '';
    return new Transform({
      transform(bytes: Buffer, _encoding, done) {
        if (secrets.size > 0) {
          const text = tail + bytes.toString('latin1');
          look(text);
          tail = text.slice(-512);
        }
        done(null, bytes);
      },
    });
  };
  const ruleFor = (ask: SeenRequest): Rule | undefined => {
    const rule = rules.find(({ which, left }) => left > 0 && which(ask));
    if (rule) rule.left--;
    return rule;
  };

  const forward = async (from: IncomingMessage, to: ServerResponse, ask: SeenRequest, how: Misbehaviour | null) => {
    const out = request({
      host: target.hostname,
      port: target.port,
      method: from.method,
      path: from.url,
      headers: withoutHops(from.headers),
      agent,
    });
    const answered = new Promise<IncomingMessage>((resolve, reject) => {
      out.once('response', resolve).on('error', reject);
    });
    answered.catch(() => {}); // seen where it is awaited
    from.once('close', () => {
      if (!from.complete) out.destroy();
    });
    if (how === 'truncate-request') {
      await sendHalf(from, out);
      from.socket.destroy();
      return;
    }
    const body = from.pipe(searched());
    body.pipe(out);
    const answer = await answered;
    // S3 refuses before it has read all, and reads no further: what the client still sends goes nowhere.
    answer.once('end', () => {
      from.unpipe();
      from.resume();
      if (!out.writableFinished) out.destroy();
    });
    ask.status = answer.statusCode ?? 502;
    look(JSON.stringify(answer.headers));
    if (how === 'lose-answer') {
      answer.resume();
      await new Promise((resolve) => answer.once('end', resolve));
      from.socket.destroy();
      return;
    }
    const headers = withoutHops(answer.headers);
    if (how === 'wrong-etag' && headers.etag !== undefined) headers.etag = '"00000000000000000000000000000000"';
    to.writeHead(ask.status, headers);
    if (how === 'truncate-answer') {
      await sendHalf(answer, to);
      from.socket.destroy();
      return;
    }
    if (how === 'alter-answer') await pipeline(answer, altered(), to);
    else await pipeline(answer, searched(), to);
  };

  const handle = async (from: IncomingMessage, to: ServerResponse): Promise<void> => {
    const url = new URL(from.url ?? '/', 'http://any');
    const ask: SeenRequest = {
      method: from.method ?? '',
      url: from.url ?? '',
      path: decoded(url.pathname),
      query: url.searchParams,
      headers: from.headers,
      status: null,
      fault: null,
    };
    seen.push(ask);
    look(`${from.url} ${JSON.stringify(from.headers)}`);
    // The SDK waits for this before it sends larger bodies.
    if (from.headers.expect !== undefined) to.writeContinue();
    const how = ruleFor(ask)?.how ?? null;
    if (how === null) return forward(from, to, ask, null);
    ask.fault = typeof how === 'string' ? how : typeof how === 'function' ? 'custom' : how.code;
    if (how === 'reset') from.socket.resetAndDestroy();
    else if (how === 'hang') hanging.push(from.socket);
    else if (typeof how === 'string') await forward(from, to, ask, how);
    else if (typeof how === 'function') how(from, to);
    else {
      ask.status = how.answer;
      from.resume();
      await new Promise((resolve) => from.once('end', resolve).once('close', resolve));
      const body = how.body ?? errorXml(how.code);
      to.writeHead(how.answer, { 'content-type': 'application/xml', ...how.headers }).end(body);
    }
  };

  const listener = (from: IncomingMessage, to: ServerResponse): void => {
    handle(from, to).catch(() => (from.socket as Socket | null)?.destroy()); // S3 is down, or the client left
  };
  const server: Server = tls ? createTlsServer(tls, listener) : createServer(listener);
  server.on('checkContinue', listener);
  server.on('connection', (socket) => {
    if (isCut) {
      socket.destroy();
      return;
    }
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));

  return {
    url: `${tls ? 'https' : 'http'}://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    found,
    misbehave: (how, which = () => true, times = Number.POSITIVE_INFINITY) => {
      rules.push({ how, which, left: times });
    },
    mend: () => {
      rules = [];
      isCut = false;
      for (const socket of hanging) socket.destroy();
      hanging = [];
    },
    cut: () => {
      isCut = true;
      for (const socket of sockets) socket.destroy();
    },
    watch: (secret) => {
      if (secret.length === 0 || secret.length > 512) throw new RangeError('a secret of 1 to 512 characters');
      secrets.add(secret);
    },
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      agent.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
};

const errorXml = (code: string): string =>
  `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>made up</Message><RequestId>1</RequestId></Error>`;

const decoded = (path: string): string => {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
};

/** What belongs to one connection alone. */
const withoutHops = (headers: IncomingMessage['headers']): IncomingMessage['headers'] => {
  const { connection: _, 'keep-alive': __, 'transfer-encoding': chunked, expect: ___, ...rest } = headers;
  return { ...rest, ...(chunked === undefined ? {} : { 'transfer-encoding': chunked }) };
};

/** Half of what its content-length promises, then nothing. */
const sendHalf = async (from: IncomingMessage, to: NodeJS.WritableStream & { destroy(): unknown }): Promise<void> => {
  let left = Math.floor(Number(from.headers['content-length'] ?? 2) / 2);
  for await (const bytes of from as AsyncIterable<Buffer>) {
    const part = bytes.subarray(0, left);
    left -= part.length;
    await new Promise<void>((resolve) => to.write(part, () => resolve()));
    if (left === 0) break;
  }
  to.destroy();
};

const altered = (): Transform => {
  let isDone = false;
  return new Transform({
    transform(bytes: Buffer, _encoding, done) {
      if (!isDone && bytes.length > 0) {
        isDone = true;
        bytes.writeUInt8(bytes.readUInt8(0) ^ 1, 0);
      }
      done(null, bytes);
    },
  });
};
