import { createHash, X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer as createHttp, type RequestListener } from 'node:http';
import { createServer as createHttps } from 'node:https';
import type { AddressInfo, Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import { ackCommands, pollCommands, putOutput } from '@aegis/protocol/commands/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import { expect, test } from 'vitest';
import { makeCertificate } from '../../../../../test/fleet/certificate.ts';
import { pause } from '../clock.ts';
import { backoff } from './backoff.ts';
import { httpClient } from './client.ts';
import { type HttpAnswer, type HttpDoor, MAX_ANSWER_BYTES, nodeHttpDoor } from './door.ts';
import { fetchPinnedCertificate } from './pinned-certificate.ts';

const listening = async (server: Server): Promise<number> => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
};

test('a pinned certificate is accepted whatever it says, any other is not, and nothing is sent to it', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'aegis-tls-'));
  const made = ['pinned', 'other'].map((name) => makeCertificate(dir, name, null));
  let requests = 0;
  const answer: RequestListener = (_request, response) => {
    requests++;
    response.end('{}');
  };
  const servers = made.map((pair) => createHttps(pair, answer));
  const [port = 0, otherPort = 0] = await Promise.all(servers.map(listening));
  try {
    const fingerprint = createHash('sha256')
      .update(new X509Certificate(made[0]?.cert ?? '').raw)
      .digest('hex');
    const certificate = await fetchPinnedCertificate(new URL(`https://127.0.0.1:${port}`), fingerprint);
    await expect(fetchPinnedCertificate(new URL(`https://127.0.0.1:${otherPort}`), fingerprint)).rejects.toMatchObject({
      code: 'access.untrusted',
    });
    const ask = (at: number, door: HttpDoor) =>
      door({ method: 'GET', url: `https://127.0.0.1:${at}/`, headers: {}, timeoutMs: 5000 });
    const pinned = nodeHttpDoor({ tls: { pinned: { certificate, fingerprint } } });
    expect((await ask(port, pinned)).status).toBe(200);
    expect(requests).toBe(1);
    await expect(ask(otherPort, pinned)).rejects.toThrow();
    const trusting = nodeHttpDoor();
    await expect(ask(port, trusting)).rejects.toThrow(/self-signed/);
    expect(requests).toBe(1);
    pinned.close();
    trusting.close();
  } finally {
    for (const server of servers) server.close();
    rmSync(dir, { recursive: true });
  }
});

test('an answer that is too long, too late or broken off is no answer', async () => {
  const server = createHttp((request, response) => {
    if (request.url === '/long') response.end(Buffer.alloc(MAX_ANSWER_BYTES + 1));
    else if (request.url === '/broken') {
      response.writeHead(200, { 'content-length': '100' });
      response.write('half', () => request.socket.destroy());
    }
  });
  const port = await listening(server);
  const door = nodeHttpDoor();
  const ask = (path: string, timeoutMs = 5000, signal?: AbortSignal) =>
    door({ method: 'GET', url: `http://127.0.0.1:${port}${path}`, headers: {}, timeoutMs, signal });
  await expect(ask('/long')).rejects.toThrow(/larger than/);
  await expect(ask('/broken')).rejects.toThrow();
  await expect(ask('/never', 50)).rejects.toThrow(/no answer within 50 ms/);
  await expect(ask('/never', 5000, AbortSignal.abort())).rejects.toThrow(/aborted/);
  door.close();
  server.closeAllConnections();
  server.close();
});

const answer = (status: number, body: unknown, headers = {}): HttpAnswer => ({
  status,
  headers,
  body: Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)),
});
const failure = (code: string, details = {}) => ({ error: { code, message: 'why', details }, request_id: 'r' });
const clientOf = (door: HttpDoor, more: Partial<Parameters<typeof httpClient>[0]> = {}) =>
  httpClient({ server: 'http://x', door, faults: noFaultPoints, userAgent: 'test', compress: false, ...more });

test.each<[string, HttpAnswer, object]>([
  [
    '503 with Retry-After',
    answer(503, failure('http.unavailable'), { 'retry-after': '3' }),
    { name: 'Unreachable', retryAfterMs: 3000 },
  ],
  [
    'a server that is away for centuries',
    answer(503, '', { 'retry-after': '99999999999' }),
    { retryAfterMs: 3_600_000 },
  ],
  ['a server that is away for ever', answer(503, '', { 'retry-after': 'Infinity' }), { retryAfterMs: 3_600_000 }],
  ['a server that was away', answer(503, '', { 'retry-after': '-5' }), { retryAfterMs: 0 }],
  ['429', answer(429, failure('http.rate_limited')), { name: 'Unreachable' }],
  ["a proxy's page", answer(404, '<html>'), { name: 'Unreachable' }],
  ['an answer of another shape', answer(200, { hello: 1 }), { name: 'Unreachable' }],
  [
    'a refusal',
    answer(409, failure('commands.offset_ahead', { next: 7 })),
    { name: 'AegisError', code: 'commands.offset_ahead', details: { next: 7 } },
  ],
])('%s', async (_, given, expected) => {
  const client = clientOf(async () => given);
  await expect(client.call(ackCommands, { body: { ids: [] } })).rejects.toMatchObject(expected);
});

test('a pause longer than timers go does not end at once', async () => {
  const ended = new AbortController();
  let over = false;
  const long = pause(2 ** 40, ended.signal).then(() => {
    over = true;
  });
  await pause(10);
  expect(over).toBe(false);
  ended.abort();
  await long;
});

test('a 401 renews the token once', async () => {
  const seen: (string | undefined)[] = [];
  let token = 'old';
  const client = clientOf(
    async ({ headers }) => {
      seen.push(headers.authorization);
      return answer(401, failure('access.unauthenticated'));
    },
    {
      token: {
        current: () => token,
        renew: async () => {
          token = 'new';
        },
      },
    },
  );
  await expect(client.call(pollCommands, { query: { wait: 0 } })).rejects.toMatchObject({
    code: 'access.unauthenticated',
  });
  expect(seen).toEqual(['Bearer old', 'Bearer new']);
});

test('bodies are compressed when that helps', async () => {
  const bodies: { encoding: string | undefined; bytes: Buffer }[] = [];
  const client = clientOf(
    async ({ headers, body }) => {
      bodies.push({ encoding: headers['content-encoding'], bytes: Buffer.from(body ?? []) });
      return answer(200, { next: { stdout: 1, stderr: 0 } });
    },
    { compress: true },
  );
  const put = (bytes: Buffer) =>
    client.call(putOutput, { params: { id: 'e', stream: 'stdout' }, query: { offset: 0 }, body: bytes });
  const text = Buffer.alloc(100_000, 'abc ');
  await put(text);
  await put(Buffer.from('short'));
  expect(bodies.map(({ encoding }) => encoding)).toEqual(['zstd', undefined]);
  expect(zstdDecompressSync(bodies[0]?.bytes ?? Buffer.alloc(0)).equals(text)).toBe(true);
});

test('the backoff doubles to its bound, drawn anew each time, and obeys what it is told', () => {
  const draws = [0, 1, 0.5, 0, 1];
  const pauses = backoff({ firstMs: 1000, maxMs: 3000, random: () => draws.shift() ?? 0 });
  expect([pauses.next(), pauses.next(), pauses.next(), pauses.next(), pauses.next(8000)]).toEqual([
    500, 2000, 2250, 1500, 8750,
  ]);
  pauses.reset();
  expect(pauses.next()).toBe(500);
});

test('a body flows into a sink, at its pace and as far as it takes it; a refusal does not', async () => {
  let sent = 0;
  const server = createHttp((request, response) => {
    if (request.url === '/refused') {
      response.writeHead(404).end(JSON.stringify({ error: { code: 'artifacts.unknown_artifact', message: 'none' } }));
      return;
    }
    const more = (): void => {
      while (!response.destroyed && request.url === '/endless' && response.write(Buffer.alloc(65_536))) sent += 65_536;
    };
    response.on('drain', more);
    if (request.url === '/endless') more();
    else response.end(Buffer.alloc(300_000, 'x'));
  });
  const port = await listening(server);
  const door = nodeHttpDoor();
  try {
    const ask = (path: string, write: (part: Buffer) => void | Promise<void>) => {
      const parts: Buffer[] = [];
      const sink = {
        begin: () => void parts.splice(0),
        write: async (part: Buffer) => {
          await write(part);
          parts.push(part);
        },
      };
      return door({ method: 'GET', url: `http://127.0.0.1:${port}${path}`, headers: {}, timeoutMs: 20_000, sink }).then(
        (given) => ({ ...given, parts: Buffer.concat(parts) }),
      );
    };
    const whole = await ask('/whole', () => new Promise((resolve) => setImmediate(resolve)));
    expect([whole.status, whole.body.length, whole.parts.equals(Buffer.alloc(300_000, 'x'))]).toEqual([200, 0, true]);
    const refused = await ask('/refused', () => undefined);
    expect([refused.status, refused.parts.length, refused.body.toString()]).toEqual([
      404,
      0,
      expect.stringContaining('unknown_artifact'),
    ]);
    let taken = 0;
    const full = new AegisError('artifacts.digest_mismatch', 'enough');
    const endless = ask('/endless', (part) => {
      taken += part.length;
      if (taken > 1_000_000) throw full;
    });
    await expect(endless).rejects.toBe(full);
    expect(sent).toBeLessThan(100_000_000);
  } finally {
    door.close();
    server.closeAllConnections();
    server.close();
  }
});

test("what a sink throws passes through the client; a break-off is the server's", async () => {
  const ask = (error: Error) =>
    clientOf(async () => {
      throw error;
    }).call(pollCommands, { query: { wait: 0 } });
  const full = new AegisError('artifacts.storage_full', 'full');
  await expect(ask(full)).rejects.toBe(full);
  await expect(ask(new Error('reset'))).rejects.toMatchObject({ name: 'Unreachable' });
});
