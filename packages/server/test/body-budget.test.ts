import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { zstdCompressSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { until } from './commands-support.ts';
import { startTestServer, type TestServer } from './start-test-server.ts';
import type { Received, TestClient } from './test-client.ts';

/** What request bodies may hold of the server's memory at once, before anybody has sent the last byte. */

const MIB = 1024 * 1024;
let server: TestServer;
let one: TestClient & { token: string };
let two: TestClient & { token: string };
beforeAll(async () => {
  server = await startTestServer({ config: { 'http.body_budget_bytes': 16 * MIB } });
  [one, two] = [await server.keyless('one'), await server.keyless('two')];
});
afterAll(() => server.close());

const open: Socket[] = [];
const hangUp = (): void => {
  for (const socket of open.splice(0)) socket.destroy();
};
afterEach(hangUp);

const PATH = '/v1/executions/00000000-0000-7000-8000-000000000000/output/stdout?offset=0';
/** All of a body but its last byte. */
const withhold = (token: string, bytes: number, path = PATH): { answer: () => string } => {
  const { hostname, port } = new URL(server.url);
  const socket = connect(Number(port), hostname, () => {
    socket.write(
      `PUT ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/octet-stream\r\nContent-Length: ${bytes}\r\n\r\n`,
    );
    socket.write(Buffer.alloc(bytes - 1));
  });
  let answer = '';
  socket.on('data', (data) => {
    answer += data;
  });
  socket.on('error', () => undefined); // it is cut, or cuts
  open.push(socket);
  return { answer: () => answer };
};
const put = (
  node: TestClient,
  body: NonNullable<RequestInit['body']>,
  headers: Record<string, string> = {},
): Promise<Received> =>
  node.raw('PUT', PATH, {
    body,
    headers: { 'content-type': 'application/octet-stream', ...headers },
    ...({ duplex: 'half' } as object),
  });
const outcome = ({ status, headers }: Received) => [status, headers.get('retry-after')];
const inChunks = (bytes: number) => new Blob([Buffer.alloc(bytes)]).stream();
const LARGE = Buffer.alloc(128 * 1024);
const [TAKEN, BUSY, TOO_MANY] = [
  [404, null],
  [503, '1'],
  [429, '1'],
];

test('beyond the budget large bodies are refused with when to come back, small ones are not', async () => {
  withhold(one.token, 8 * MIB);
  withhold(one.token, 8 * MIB);
  await until('the budget is used', async () => (await put(two, LARGE)).status === 503);
  expect(outcome(await put(two, LARGE))).toEqual(BUSY);
  expect(outcome(await put(two, Buffer.alloc(64 * 1024)))).toEqual(TAKEN);
  expect(outcome(await put(two, inChunks(128 * 1024)))).toEqual(BUSY);
  expect(outcome(await put(two, inChunks(60 * 1024)))).toEqual(TAKEN);
  const packed = { 'content-encoding': 'zstd' };
  expect(outcome(await put(two, zstdCompressSync(Buffer.alloc(4 * MIB)), packed))).toEqual(BUSY);
  expect(outcome(await put(two, zstdCompressSync(randomBytes(1000)), packed))).toEqual(TAKEN);
  hangUp();
  await until('it is free again', async () => (await put(two, LARGE)).status === 404);
  expect(outcome(await put(two, Buffer.alloc(8 * MIB)))).toEqual(TAKEN);
});

test('a caller has eight large bodies under way at most; the others go on', async () => {
  // One more than it may have: once that one is refused, the other eight are under way. To ask instead would count as well.
  const held = Array.from({ length: 9 }, () => withhold(one.token, LARGE.length));
  const refused = () => held.filter(({ answer }) => answer().startsWith('HTTP/1.1 429')).length;
  await until('it has as many', async () => refused() === 1);
  expect(outcome(await put(one, LARGE))).toEqual(TOO_MANY);
  expect(outcome(await put(one, Buffer.alloc(1024)))).toEqual(TAKEN);
  expect(outcome(await put(two, LARGE))).toEqual(TAKEN);
  hangUp();
  await until('it may again', async () => (await put(one, LARGE)).status === 404);
});

test('what is answered gives its share back', async () => {
  for (let at = 0; at < 6; at++) expect(outcome(await put(one, Buffer.alloc(8 * MIB)))).toEqual(TAKEN);
});

test('bodies that grow when they are unpacked do so a few at a time', async () => {
  const bomb = zstdCompressSync(Buffer.alloc(8 * MIB));
  const before = process.memoryUsage().arrayBuffers;
  let most = 0;
  const watch = setInterval(() => {
    most = Math.max(most, process.memoryUsage().arrayBuffers - before);
  }, 5);
  const packed = { 'content-encoding': 'zstd' };
  const all = await Promise.all(Array.from({ length: 100 }, () => put(two, bomb, packed)));
  clearInterval(watch);
  expect(all.map(outcome).filter(([status]) => status !== 404 && status !== 429 && status !== 503)).toEqual([]);
  expect(most / MIB).toBeLessThan(400); // all at once they are 800
});

test('no body is read for a path that there is not', async () => {
  const asked = withhold('nobody', 8 * MIB, '/nothing');
  await until('the answer comes before the body', () => asked.answer().startsWith('HTTP/1.1 404'));
});
