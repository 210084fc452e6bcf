import { Agent, createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** A network between daemons and their server that misbehaves by name. It understands HTTP, so that it can deliver a request
 *  twice, hold one back until later ones have passed, or lose an answer after the server has committed. */
export interface BadNetwork extends AsyncDisposable {
  /** What the daemon is told to talk to. */
  readonly url: string;
  /** Every connection breaks, and none comes about until `mend`. */
  cut(): void;
  mend(): void;
  /** Each request waits up to this long, so those under way at once overtake each other. */
  delayUpTo(ms: number): void;
  /** Each request reaches the server twice; the daemon sees the second answer. */
  duplicateEverything(): void;
  /** This share of the answers is lost after the server has given them: one of each 1/share, at a random place among them, so that
   *  a short run has its losses too. */
  loseAnswers(share: number): void;
  /** This share of the requests, likewise, never reaches the server. */
  loseRequests(share: number): void;
  /** Called with all that passes from now on: heads as one text each, bodies as they come. */
  record(each: (bytes: Buffer) => void): void;
  /** Requests and lost answers so far, to prove that the fault took place. */
  readonly counts: { requests: number; duplicated: number; lostAnswers: number; lostRequests: number };
}

/** Small seeded generator (mulberry32), so that a run can be repeated. */
export const seededRandom = (seed: number): (() => number) => {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
};

const losses = (random: () => number) => {
  let of = 0;
  let nth = 0;
  let lost = 0;
  return {
    share: (share: number): void => {
      of = share > 0 ? Math.round(1 / share) : 0;
      nth = 0;
    },
    next: (): boolean => {
      if (of === 0) return false;
      if (nth === 0) lost = Math.floor(random() * of);
      const hit = nth === lost;
      nth = (nth + 1) % of;
      return hit;
    },
  };
};

interface Answer {
  status: number;
  headers: IncomingMessage['headers'];
  body: Buffer;
}

export const startBadNetwork = async (upstream: string, seed = 1): Promise<BadNetwork> => {
  const random = seededRandom(seed);
  const target = new URL(upstream);
  const agent = new Agent({ keepAlive: true, maxSockets: 64 });
  const sockets = new Set<Socket>();
  const counts = { requests: 0, duplicated: 0, lostAnswers: 0, lostRequests: 0 };
  let isCut = false;
  let delayMs = 0;
  let duplicate = false;
  let record: (bytes: Buffer) => void = () => undefined;
  const answers = losses(random);
  const requests = losses(random);

  const forward = (from: IncomingMessage, body: Buffer, signal: AbortSignal): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const { host: _, connection: __, 'transfer-encoding': ___, ...headers } = from.headers;
      const out = request(
        {
          host: target.hostname,
          port: target.port,
          method: from.method,
          path: from.url,
          headers: { ...headers, host: target.host, 'content-length': body.length },
          agent,
          signal,
        },
        async (answer) => {
          try {
            resolve({ status: answer.statusCode ?? 502, headers: answer.headers, body: await bytesOf(answer) });
          } catch (error) {
            reject(error);
          }
        },
      );
      out.on('error', reject).end(body);
    });

  const handle = async (from: IncomingMessage, to: ServerResponse): Promise<void> => {
    const gone = new AbortController();
    to.on('close', () => gone.abort());
    const body = await bytesOf(from);
    record(Buffer.from(`${from.method} ${from.url} ${JSON.stringify(from.headers)}`));
    record(body);
    counts.requests++;
    if (delayMs > 0) await sleep(random() * delayMs);
    if (isCut || requests.next()) {
      counts.lostRequests++;
      from.socket.destroy();
      return;
    }
    // A poll that waits would hold its copy's answer back for as long: copy everything but polls.
    if (duplicate && !from.url?.includes('/poll')) {
      counts.duplicated++;
      await forward(from, body, gone.signal);
    }
    const answer = await forward(from, body, gone.signal);
    record(Buffer.from(JSON.stringify(answer.headers)));
    record(answer.body);
    if (isCut || answers.next()) {
      counts.lostAnswers++;
      from.socket.destroy();
      return;
    }
    const { connection: _, 'transfer-encoding': __, 'keep-alive': ___, ...headers } = answer.headers;
    to.writeHead(answer.status, { ...headers, 'content-length': answer.body.length }).end(answer.body);
  };

  const server = createServer((from, to) => {
    handle(from, to).catch(() => from.socket.destroy()); // the server is down: the daemon sees a broken connection
  });
  server.on('connection', (socket) => {
    if (isCut) {
      socket.destroy();
      return;
    }
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;

  return {
    url: `http://127.0.0.1:${port}`,
    counts,
    cut: () => {
      isCut = true;
      for (const socket of sockets) socket.destroy();
    },
    mend: () => {
      isCut = false;
      delayMs = 0;
      duplicate = false;
      answers.share(0);
      requests.share(0);
    },
    delayUpTo: (ms) => {
      delayMs = ms;
    },
    duplicateEverything: () => {
      duplicate = true;
    },
    record: (each) => {
      record = each;
    },
    loseAnswers: answers.share,
    loseRequests: requests.share,
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      agent.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
};

const bytesOf = async (stream: IncomingMessage): Promise<Buffer> => {
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part as Buffer);
  return Buffer.concat(parts);
};
