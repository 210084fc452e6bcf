import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { createToken, listTokens } from '@aegis/protocol/access/endpoints';
import { apiListNodes, apiPatchNode, listAgents, registerKeyless } from '@aegis/protocol/nodes/endpoints';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { startTestServer, type TestServer } from './start-test-server.ts';

/** What the HTTP layer refuses, for every route alike, and how it says so. */

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
  await server.enrol('web-1');
});
afterAll(() => server.close());

type Bytes = string | Buffer<ArrayBuffer> | Uint8Array<ArrayBuffer>;
const JSON_TYPE = { 'content-type': 'application/json' };
const codeOf = (json: unknown) => (json as { error: { code: string } }).error.code;
const messageOf = (json: unknown) => (json as { error: { message: string } }).error.message;
const patch = (body: Bytes, headers: Record<string, string> = JSON_TYPE) =>
  server.as('operator').raw('PATCH', '/api/v1/agents/web-1', { body, headers });

const deep = (levels: number) => `${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`;
describe('bodies', () => {
  test.each<[string, Bytes, Record<string, string>, number, string, RegExp]>([
    ['not JSON', '{"site":', JSON_TYPE, 400, 'http.malformed', /not JSON/],
    ['no object', '[]', JSON_TYPE, 400, 'http.malformed', /body .*expected object/],
    ['null', 'null', JSON_TYPE, 400, 'http.malformed', /expected object/],
    ['wrong type', '{"site":7}', JSON_TYPE, 400, 'http.malformed', /'site': Invalid input: expected string/],
    ['wrong type inside', '{"labels":{"a":7}}', JSON_TYPE, 400, 'http.malformed', /'labels\.a'/],
    ['unknown field', '{"site":"fra","colour":"red"}', JSON_TYPE, 400, 'http.malformed', /colour/],
    ['too deep', `{"labels":${deep(40)}}`, JSON_TYPE, 400, 'http.malformed', /32 levels/],
    ['very deep', deep(500_000), JSON_TYPE, 400, 'http.malformed', /32 levels|not JSON/],
    ['very many', `{"labels":[${'1,'.repeat(50_000)}1]}`, JSON_TYPE, 400, 'http.malformed', /50000 values/],
    ['__proto__', '{"__proto__":{"site":"x"}}', JSON_TYPE, 400, 'http.malformed', /__proto__/],
    ['constructor', '{"constructor":{"prototype":{}}}', JSON_TYPE, 400, 'http.malformed', /constructor/],
    ['not UTF-8', new Uint8Array([123, 34, 255, 34, 58, 49, 125]), JSON_TYPE, 400, 'http.malformed', /UTF-8/],
    [
      'a form',
      'site=fra',
      { 'content-type': 'application/x-www-form-urlencoded' },
      415,
      'http.unsupported_media_type',
      /application\/json/,
    ],
    [
      'another charset',
      '{}',
      { 'content-type': 'application/json; charset=utf-16' },
      415,
      'http.unsupported_media_type',
      /UTF-8/,
    ],
    [
      'unknown encoding',
      '{}',
      { ...JSON_TYPE, 'content-encoding': 'br' },
      415,
      'http.unsupported_media_type',
      /gzip, zstd/,
    ],
    ['not gzip', '{}', { ...JSON_TYPE, 'content-encoding': 'gzip' }, 400, 'http.malformed', /not gzip/],
    [
      'a gzip bomb',
      gzipSync(Buffer.alloc(50_000_000)),
      { ...JSON_TYPE, 'content-encoding': 'gzip' },
      413,
      'http.too_large',
      /8 MiB/,
    ],
    [
      'a zstd bomb',
      zstdCompressSync(Buffer.alloc(50_000_000)),
      { ...JSON_TYPE, 'content-encoding': 'zstd' },
      413,
      'http.too_large',
      /8 MiB/,
    ],
    ['too large', Buffer.alloc(8 * 1024 * 1024 + 1, 32), JSON_TYPE, 413, 'http.too_large', /8 MiB/],
  ])('%s', async (_, body, headers, status, code, message) => {
    const answer = await patch(body, headers);
    expect({ status: answer.status, code: codeOf(answer.json) }).toEqual({ status, code });
    expect(messageOf(answer.json)).toMatch(message);
    const { agents } = await server.as('viewer').call(apiListNodes);
    expect(agents.map(({ name, site, labels }) => ({ name, site, labels }))).toEqual([
      { name: 'web-1', site: null, labels: {} },
    ]);
  });

  test('where anyone may call, 256 KiB are the limit', async () => {
    const answer = await server.as('anyone').raw('POST', '/agents/register/init', {
      body: Buffer.alloc(256 * 1024 + 1, 32),
      headers: JSON_TYPE,
    });
    expect({ status: answer.status, code: codeOf(answer.json) }).toEqual({ status: 413, code: 'http.too_large' });
  });

  test('where anyone may call, 500 values are the limit: each would be judged and told of', async () => {
    const labels = Object.fromEntries(Array.from({ length: 600 }, (_, at) => [`-${at}`, at]));
    const { status, json } = await server.as('anyone').raw('POST', '/agents/register/init', {
      body: JSON.stringify({ host_id: 'a', labels }),
      headers: JSON_TYPE,
    });
    expect([status, codeOf(json), messageOf(json)]).toEqual([
      400,
      'http.malformed',
      "The body's JSON holds more than 500 values. Send fewer at once.",
    ]);
  });

  test('gzip and zstd are read', async () => {
    for (const [encoding, bytes] of [
      ['gzip', gzipSync('{"maintenance":false}')],
      ['zstd', zstdCompressSync('{"maintenance":false}')],
    ] as const)
      expect((await patch(bytes, { ...JSON_TYPE, 'content-encoding': encoding })).status).toBe(200);
  });

  test('U+0000 in text that is stored is refused alike on every database', async () => {
    const body = { node_id: 'nul', attrs: { os: 'a\0b' } };
    const answer = await server.as('admin').send(registerKeyless, { body });
    expect({ status: answer.status, message: messageOf(answer.json) }).toEqual({
      status: 400,
      message: 'Text may not contain the character U+0000. Remove it.',
    });
  });
});

describe('addresses', () => {
  test.each([
    ['GET', '/nothing', 404, 'http.not_found'],
    ['GET', '/api/v1/agents/', 404, 'nodes.unknown_node'],
    ['DELETE', '/agents', 405, 'http.method_not_allowed'],
    ['POST', '/api/v1/agents/web-1', 405, 'http.method_not_allowed'],
    ['HEAD', '/agents', 405, undefined],
    ['GET', '/agents/%E0%A4%A', 400, 'http.malformed'],
    ['GET', '/api/v1/agents/nobody', 404, 'nodes.unknown_node'],
    ['GET', '/agents?limit=x', 400, 'http.malformed'],
    ['GET', '/agents?limit=0', 400, 'http.malformed'],
    ['GET', '/agents?limit=1001', 400, 'http.malformed'],
    ['GET', '/agents?limit=1&limit=2', 400, 'http.malformed'],
    ['GET', '/agents?status=sleepy', 400, 'http.malformed'],
    ['GET', '/agents?cursor=garbage', 400, 'http.bad_cursor'],
    ['GET', `/agents?cursor=${Buffer.from('["a"]').toString('base64url')}`, 400, 'http.bad_cursor'],
    ['GET', `/agents?cursor=${'a'.repeat(513)}`, 400, 'http.malformed'],
  ])('%s %s', async (method, path, status, code) => {
    const answer = await server.as('viewer').raw(method, path);
    expect({ status: answer.status, code: answer.json && codeOf(answer.json) }).toEqual({ status, code });
    if (status === 405) expect(answer.headers.get('allow')).toMatch(/GET/);
  });

  test('every answer has its own request id and the security headers', async () => {
    const answers = await Promise.all(
      ['/healthz', '/nothing', '/agents'].map((path) =>
        server.as('viewer').raw('GET', path, { headers: { 'x-request-id': 'mine' } }),
      ),
    );
    const ids = answers.map(({ headers }) => headers.get('x-request-id'));
    expect(new Set(ids).size).toBe(3);
    for (const { headers } of answers) {
      expect(headers.get('x-request-id')).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7/);
      expect(headers.get('x-content-type-options')).toBe('nosniff');
      expect(headers.get('cache-control')).toBe('no-store');
      expect(headers.get('content-security-policy')).toContain("default-src 'none'");
    }
  });
});

describe('what is not HTTP', () => {
  const exchange = (text: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const { hostname, port } = new URL(server.url);
      const socket = connect(Number(port), hostname, () => socket.write(text));
      let answer = '';
      socket.on('data', (bytes) => {
        answer += bytes;
      });
      socket.on('close', () => resolve(answer));
      socket.on('error', reject);
    });

  test.each([
    ['garbage', 'hello\r\n\r\n', '400 Bad Request'],
    [
      'headers without end',
      `GET / HTTP/1.1\r\nHost: x\r\nX-Long: ${'a'.repeat(20_000)}\r\n\r\n`,
      '431 Request Header Fields Too Large',
    ],
    [
      'two lengths',
      'POST /agents HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx',
      '400 Bad Request',
    ],
  ])('%s', async (_, text, status) => {
    const [head = '', body = ''] = (await exchange(text)).split('\r\n\r\n');
    expect(head.split('\r\n')[0]).toBe(`HTTP/1.1 ${status}`);
    expect(codeOf(JSON.parse(body))).toBe('http.malformed');
  });
});

test('what is not HTTP is answered, and leaves no socket behind, though the client never hangs up', async () => {
  const port = Number(new URL(server.url).port);
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  let answer = '';
  socket.on('data', (data) => {
    answer += data.toString('utf8');
  });
  const ended = new Promise((resolve) => socket.once('end', resolve));
  socket.write('no such thing\r\n\r\n');
  await ended;
  expect(answer).toMatch(/^HTTP\/1\.1 400 Bad Request\r\n.*"code":"http\.malformed"/s);
  // By the kernel's word: one that nobody holds any more has no inode, whatever the other side still thinks.
  const hex = (number = 0) => number.toString(16).toUpperCase().padStart(4, '0');
  const ends = `0100007F:${hex(port)} 0100007F:${hex(socket.localPort)} `;
  const inode = () =>
    readFileSync('/proc/self/net/tcp', 'utf8')
      .split('\n')
      .find((line) => line.includes(ends))
      ?.trim()
      .split(/\s+/)[9];
  expect(inode()).not.toBe('0');
  await vi.waitFor(() => expect(inode() ?? '0').toBe('0'), { timeout: 20_000, interval: 100 });
  socket.destroy();
});

test('each address serves its doors and health, nothing else', async () => {
  await using two = await startTestServer({ config: { listen: ['127.0.0.1:0=actions', '127.0.0.1:0=api,agent-svc'] } });
  const { addresses } = two.running;
  expect(Object.keys(addresses).sort()).toEqual(['actions', 'agent-svc', 'api']);
  const statuses = async (url: string | undefined) =>
    Promise.all(
      ['/healthz', '/agents', '/api/v1/agents', '/v1/commands/poll', '/openapi.json'].map(
        async (path) => (await fetch(`${url}${path}`)).status,
      ),
    );
  expect(await statuses(addresses.actions)).toEqual([200, 401, 404, 404, 401]);
  expect(await statuses(addresses.api)).toEqual([200, 404, 401, 401, 401]);
  expect(addresses['agent-svc']).toBe(addresses.api);
});

test('tokens are listed in pages without their secrets', async () => {
  const admin = server.as('admin');
  const made = [];
  for (const name of ['a', 'b', 'c'])
    made.push(await admin.call(createToken, { body: { name, role: 'viewer', ttl_sec: 60 } }));
  const first = await admin.call(listTokens, { query: { limit: 2 } });
  const rest = await admin.call(listTokens, { query: { limit: 100, cursor: first.next_cursor ?? '' } });
  const names = [...first.items, ...rest.items].map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(['a', 'b', 'c', 'test-admin']));
  expect(new Set(names).size).toBe(names.length);
  const shown = JSON.stringify([first, rest]);
  for (const { token } of made) for (const part of token.split('.')) expect(shown).not.toContain(part);
  for (const { token } of made) expect((await server.withToken(token).send(listAgents)).status).toBe(200);
  expect(
    (await server.withToken(made[0]?.token ?? '').send(apiPatchNode, { params: { id: 'web-1' }, body: {} })).status,
  ).toBe(403);
});
