import { connect } from 'node:net';
import { pollCommands, pushLogs, submitCommand } from '@aegis/protocol/commands/endpoints';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { issueToken } from '../../packages/server/src/offline.ts';
import { stderrLog } from '../../packages/server/src/platform/log.ts';
import { startTestServer, type TestServer } from '../../packages/server/test/start-test-server.ts';
import { dump } from '../fleet/database.ts';
import { exchangeWith } from '../fleet/exchange.ts';

/** What is not HTTP, or too much of it, spoken over plain sockets: refused in the one error form or cut, and nothing changed. */

const MIB = 1024 * 1024;
let server: TestServer;
let nodeToken: string;
beforeAll(async () => {
  server = await startTestServer();
  nodeToken = (await server.enrol('web-1')).token;
});
afterAll(() => server.close());

/** Everything that comes back until the server ends the connection. */
const spoken = (...parts: (string | Buffer)[]): Promise<string> =>
  new Promise((resolve, reject) => {
    const { hostname, port } = new URL(server.url);
    const socket = connect({ port: Number(port), host: hostname, noDelay: true }, () => {
      for (const part of parts) socket.write(part);
    });
    let answer = '';
    socket.setTimeout(20_000, () =>
      socket.destroy(new Error(`the server keeps the connection open after: ${answer.slice(0, 300)}`)),
    );
    socket.on('data', (bytes) => {
      answer += bytes;
    });
    socket.on('close', () => resolve(answer));
    socket.on('error', (error) =>
      'code' in error && ['ECONNRESET', 'EPIPE'].includes(String(error.code)) ? resolve(answer) : reject(error),
    );
  });
const statusesOf = (answer: string): number[] =>
  [...answer.matchAll(/^HTTP\/1\.1 (\d{3}) /gm)].map(([, status]) => Number(status));
const head = 'Host: x\r\nConnection: close\r\n';

test.each<[string, string[], number[]]>([
  ['garbage', ['hello\r\n\r\n'], [400]],
  ['a binary greeting', ['\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n'], [400]],
  ['a bad method', [`G@T / HTTP/1.1\r\n${head}\r\n`], [400]],
  ['a bad version', [`GET / HTTP/9.9\r\n${head}\r\n`], [400]],
  ['no host', ['GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n'], [400]],
  ['a bad header name', [`GET / HTTP/1.1\r\n${head}A B: c\r\n\r\n`], [400]],
  ['a bare line feed in a header', [`GET / HTTP/1.1\r\n${head}A: b\nGET / HTTP/1.1\r\n\r\n`], [400]],
  ['an absolute URL', [`GET http://other.example/healthz HTTP/1.1\r\n${head}\r\n`], [200]],
  ['a path that climbs', [`GET /../../etc/passwd HTTP/1.1\r\n${head}\r\n`], [404]],
  ['a huge header', [`GET / HTTP/1.1\r\n${head}X: ${'a'.repeat(20_000)}\r\n\r\n`], [431]],
  ['thousands of headers', [`GET / HTTP/1.1\r\n${head}${'X: a\r\n'.repeat(5000)}\r\n`], [431]],
  ['a huge request line', [`GET /${'a'.repeat(20_000)} HTTP/1.1\r\n${head}\r\n`], [431]],
  ['two lengths', [`POST /agents HTTP/1.1\r\n${head}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx`], [400]],
  ['two lengths alike', [`POST /v1/commands/ack HTTP/1.1\r\n${head}Content-Length: 2, 2\r\n\r\n{}`], [400]],
  [
    'a length and chunks',
    [`POST /agents HTTP/1.1\r\n${head}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`],
    [400],
  ],
  ['a negative length', [`POST /agents HTTP/1.1\r\n${head}Content-Length: -1\r\n\r\n`], [400]],
  [
    'a bad chunk',
    [
      `POST /agents/register/init HTTP/1.1\r\n${head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n`,
    ],
    [400],
  ],
  ['a good request and garbage behind it', ['GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nhello\r\n\r\n'], [400]],
  [
    'many requests at once, the last of them none',
    [`${'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(20)}\0\0\0\0`],
    [400],
  ],
])('%s', async (_, parts, statuses) => {
  const before = dump(server.dataDir);
  const answer = await spoken(...parts.map((part) => Buffer.from(part, 'latin1')));
  // Node answers what it cannot read at once, before good requests that came just ahead of it: theirs may be missing.
  expect(statusesOf(answer).filter((status) => status !== 200 || statuses.includes(200))).toEqual(statuses);
  for (const body of answer.split('\r\n\r\n').filter((text) => text.startsWith('{"error"'))) {
    const { error, request_id } = JSON.parse(body) as {
      error: { code: string; message: string };
      request_id: string;
    };
    expect({ code: error.code, id: request_id.length }).toEqual({
      code: expect.stringMatching(/^http\.(malformed|not_found)$/),
      id: 36,
    });
  }
  expect(dump(server.dataDir)).toEqual(before);
});

test('chunks beyond 8 MiB without a length', async () => {
  const chunk = Buffer.concat([Buffer.from('100000\r\n'), Buffer.alloc(MIB, 32), Buffer.from('\r\n')]);
  const answer = await spoken(
    `POST /v1/commands/ack HTTP/1.1\r\n${head}Authorization: Bearer ${nodeToken}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n`,
    ...Array.from({ length: 9 }, () => chunk),
  );
  expect(statusesOf(answer)).toEqual([413]);
});

test('hundreds of connections that never finish their headers keep nobody waiting', async () => {
  const { hostname, port } = new URL(server.url);
  const slow = await Promise.all(
    Array.from(
      { length: 500 },
      () =>
        new Promise<ReturnType<typeof connect>>((resolve, reject) => {
          const socket = connect(Number(port), hostname, () =>
            socket.write('GET /healthz HTTP/1.1\r\nHost: x\r\nX-S', () => resolve(socket)),
          );
          socket.on('error', reject);
        }),
    ),
  );
  using exchange = exchangeWith(server.url);
  try {
    const statuses = await Promise.all(Array.from({ length: 20 }, () => exchange({ method: 'GET', path: '/healthz' })));
    expect(new Set(statuses.map(({ status }) => status))).toEqual(new Set([200]));
  } finally {
    for (const socket of slow) socket.destroy();
  }
});

test.each(['application/octet-stream', 'application/x-ndjson', 'text/event-stream'])(
  'a reader of %s that hangs up in the middle is no failure',
  async (accept) => {
    const errors: string[] = [];
    const log = stderrLog('error', 'json', { write: (line) => void errors.push(line) });
    await using followed = await startTestServer({ log });
    const node = await followed.enrol('web-1');
    const { command_id } = await followed.as('admin').call(submitCommand, {
      body: { targets: ['web-1'], command_type: 'exec', payload: { argv: ['true'] } },
    });
    await node.call(pollCommands);
    await node.call(pushLogs, {
      body: { command_id: command_id ?? '', chunks: [{ stream: 'stdout', offset: 0, data: 'first' }] },
    });
    const hangUp = new AbortController();
    const token = await issueToken({ dataDir: followed.dataDir, role: 'viewer', name: 'reader' });
    const answer = await fetch(`${followed.url}/api/v1/commands/${command_id}/logs?stream=stdout&follow=true`, {
      headers: { accept, authorization: `Bearer ${token}` },
      signal: hangUp.signal,
    });
    const reader = answer.body?.getReader();
    expect(Buffer.from((await reader?.read())?.value ?? []).length).toBeGreaterThan(0);
    hangUp.abort();
    using exchange = exchangeWith(followed.url);
    for (let turn = 0; turn < 20; turn++) await exchange({ method: 'GET', path: '/healthz' }); // so that it has noticed
    await followed.running.close(); // waits for what is under way
    expect(errors).toEqual([]);
  },
);

test('a connection that never says anything does not hold up a stop', async () => {
  await using stopped = await startTestServer({ config: { stop_timeout_sec: 600 } });
  const { hostname, port } = new URL(stopped.url);
  await new Promise<void>((resolve) => connect(Number(port), hostname, resolve));
  expect((await fetch(`${stopped.url}/healthz`)).status).toBe(200); // it has taken the connection before this one
  await stopped.running.close();
});
