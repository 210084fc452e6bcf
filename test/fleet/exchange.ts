import { Agent, type IncomingHttpHeaders, request } from 'node:http';
import { type ErrorCode, httpStatusOf, isErrorCode } from '@aegis/protocol/errors';

/** One HTTP request just as it is asked for, right or wrong: nothing is added that a test did not say. */
export interface Asked {
  method: string;
  /** Path and query, not encoded again. */
  path: string;
  headers?: Readonly<Record<string, string>>;
  body?: Uint8Array | string;
  /** Content-Length, when it is to differ from the body's own. The server must answer without the rest. */
  claimBytes?: number;
  /** The request is given up after this; then the answer is null. */
  giveUpMs?: number;
}
export interface Told {
  status: number;
  headers: IncomingHttpHeaders;
  text: string;
}

export interface Exchange extends Disposable {
  (asked: Asked): Promise<Told>;
  /** Null when it was given up: a long poll, a followed log. */
  orGiveUp(asked: Asked): Promise<Told | null>;
}

export const exchangeWith = (url: string): Exchange => {
  const agent = new Agent({ keepAlive: true, maxSockets: 64 });
  const { hostname, port } = new URL(url);
  const exchange = (asked: Asked): Promise<Told | null> =>
    new Promise((resolve, reject) => {
      const body = asked.body === undefined ? undefined : Buffer.from(asked.body);
      const length = asked.claimBytes ?? body?.length;
      let answered = false;
      const sent = request(
        {
          hostname,
          port,
          agent,
          method: asked.method,
          path: asked.path,
          headers: { ...asked.headers, ...(length === undefined ? {} : { 'content-length': String(length) }) },
        },
        (answer) => {
          answered = true;
          const parts: Buffer[] = [];
          answer.on('data', (part: Buffer) => parts.push(part));
          answer.on('error', () => done(null));
          answer.on('close', () =>
            done(
              answer.complete
                ? {
                    status: answer.statusCode ?? 0,
                    headers: answer.headers,
                    text: Buffer.concat(parts).toString('utf8'),
                  }
                : null,
            ),
          );
        },
      );
      const timer = asked.giveUpMs === undefined ? undefined : setTimeout(() => sent.destroy(), asked.giveUpMs);
      let givenUp = false;
      const done = (told: Told | null): void => {
        clearTimeout(timer);
        if (told === null && !givenUp && asked.giveUpMs === undefined)
          reject(new Error(`${asked.method} ${asked.path}: the answer broke off`));
        else resolve(told);
        if (asked.claimBytes !== undefined) sent.destroy(); // the rest never comes
      };
      sent.on('error', (error) => {
        if (answered) return;
        givenUp = asked.giveUpMs !== undefined && 'code' in error && error.code === 'ECONNRESET';
        if (givenUp) done(null);
        else reject(error);
      });
      if (asked.claimBytes === undefined) sent.end(body);
      else sent.write(body ?? ' ');
    });
  return Object.assign(
    async (asked: Asked): Promise<Told> => {
      const told = await exchange(asked);
      if (!told) throw new Error(`${asked.method} ${asked.path}: no answer`);
      return told;
    },
    { orGiveUp: exchange, [Symbol.dispose]: () => agent.destroy() },
  );
};

/** What is wrong with the form of an error answer: nothing, or a sentence. */
export const formFault = ({ status, headers, text }: Told): string | null => {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    return `not JSON: ${text.slice(0, 200)}`;
  }
  // A seed's own envelope stands beside it on that seed's door.
  const { success, ...own } = body as Record<string, unknown>;
  const { error, request_id } = own as {
    error?: { code?: string; message?: string; details?: unknown };
    request_id?: string;
  };
  if (success !== undefined && success !== false) return `success ${JSON.stringify(success)}`;
  if (Object.keys(own).sort().join() !== 'error,request_id') return `fields ${Object.keys(own)}`;
  if (
    Object.keys(error ?? {})
      .sort()
      .join() !== 'code,details,message'
  )
    return `error has ${Object.keys(error ?? {})}`;
  if (!error?.code || !isErrorCode(error.code)) return `unknown code ${error?.code}`;
  if (httpStatusOf(error.code) !== status) return `${error.code} with status ${status}`;
  if (!error.message || !/^[^\n]{10,2000}$/.test(error.message)) return `message ${JSON.stringify(error.message)}`;
  if (typeof error.details !== 'object' || error.details === null) return 'details is no object';
  if (!request_id || headers['x-request-id'] !== request_id) return `request_id ${request_id}`;
  if (headers['content-type'] !== 'application/json; charset=utf-8') return `type ${headers['content-type']}`;
  if (/node_modules|\.ts:\d|\.js:\d|\bat \S+ \(|SQLITE_|syntax error at/.test(text))
    return `tells of the inside: ${text}`;
  return null;
};

export const codeOf = ({ status, text }: Told): [number, ErrorCode | null] => {
  if (status < 400) return [status, null];
  return [status, (JSON.parse(text) as { error: { code: ErrorCode } }).error.code];
};
