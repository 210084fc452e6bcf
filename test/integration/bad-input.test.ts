import { gzipSync, zstdCompressSync } from 'node:zlib';
import { createToken, revokeToken } from '@aegis/protocol/access/endpoints';
import type { Endpoint } from '@aegis/protocol/endpoint';
import { apiRetireNode } from '@aegis/protocol/nodes/endpoints';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { issueToken } from '../../packages/server/src/offline.ts';
import {
  type HandClock,
  handClock,
  startTestServer,
  type TestServer,
} from '../../packages/server/test/start-test-server.ts';
import { dump, faultsIn } from '../fleet/database.ts';
import { type Asked, codeOf, type Exchange, exchangeWith, formFault } from '../fleet/exchange.ts';
import { fuzz } from '../fleet/fuzzer.ts';
import { allEndpoints, requestOf, type Sample, type Staged, stage } from '../fleet/samples.ts';
import { wrongBodies, wrongQueries } from '../fleet/wrong-values.ts';

/** What no endpoint may take, for every endpoint of the protocol: the right status and code, an answer of the one error form, and
 *  nothing changed. Requests are good ones but for the one thing that is wrong with them. */

const MIB = 1024 * 1024;
const endpoints = await allEndpoints();
const withBody = endpoints.filter((endpoint) => endpoint.body);
const withQuery = endpoints.filter((endpoint) => endpoint.query);

let server: TestServer;
let clock: HandClock;
let staged: Staged;
let exchange: Exchange;
/** Bearers that are no good, and what an endpoint for operators and one for nodes say to them. */
let bad: Record<string, { bearer: string | null; operators: Outcome; nodes: Outcome }>;
type Outcome = readonly [number, string];

beforeAll(async () => {
  clock = handClock();
  server = await startTestServer({ clock });
  await using foreign = await startTestServer();
  const admin = server.as('admin');
  const make = (name: string, more: object) => admin.call(createToken, { body: { name, role: 'admin', ...more } });
  const expiring = await make('expiring', { ttl_sec: 60 });
  const revoked = await make('revoked', {});
  await admin.call(revokeToken, { params: { id: revoked.id } });
  const expired = await server.enrol('expired');
  clock.advance(86_400_000);
  const retired = await server.enrol('retired');
  await admin.call(apiRetireNode, { params: { id: 'retired' } });
  const adminToken = await issueToken({ dataDir: server.dataDir, role: 'admin', name: 'stage', clock });
  staged = await stage(server.url, adminToken, clock.now());
  exchange = exchangeWith(server.url);
  const foreignAdmin = await issueToken({ dataDir: foreign.dataDir, role: 'admin', name: 'x' });
  const nobody: Outcome = [401, 'access.unauthenticated'];
  const unauthenticated = (bearer: string | null) => ({ bearer, operators: nobody, nodes: nobody });
  bad = {
    none: unauthenticated(null),
    garbage: unauthenticated('garbage'),
    'a JWT without signature': unauthenticated(unsigned(staged.bearers.node)),
    'an expired operator token': unauthenticated(expiring.token),
    'a revoked operator token': unauthenticated(revoked.token),
    'an expired node token': unauthenticated(expired.token),
    "another fleet's operator token": unauthenticated(foreignAdmin),
    "another fleet's node token": unauthenticated((await foreign.enrol('alien')).token),
    'a join token': unauthenticated(await server.joinToken()),
    "a retired node's token": {
      bearer: retired.token,
      operators: [403, 'nodes.retired'],
      nodes: [403, 'nodes.retired'],
    },
    'a node token': { bearer: staged.bearers.node, operators: [403, 'access.forbidden'], nodes: [200, ''] },
    'an admin token': { bearer: staged.bearers.admin, operators: [200, ''], nodes: [403, 'access.forbidden'] },
  };
});
afterAll(async () => {
  exchange[Symbol.dispose]();
  expect(faultsIn(server.dataDir)).toEqual([]);
  await server.close();
});

const unsigned = (token: string): string =>
  `${Buffer.from('{"alg":"none","typ":"JWT"}').toString('base64url')}.${token.split('.')[1]}.`;

/** Sends it, checks the form of the refusal and that nothing changed; answers status and code. */
const refused = async (asked: Asked, what: string): Promise<[number, string | null]> => {
  const told = await exchange(asked);
  if (told.status >= 400) expect(formFault(told), what).toBe(null);
  return codeOf(told);
};
/** All of a table at once, the tables of the database compared around it. */
const expectTable = async (
  cases: Readonly<Record<string, { asked: Asked; expected: readonly [number, string | null] }>>,
) => {
  const before = dump(server.dataDir);
  const seen: Record<string, unknown> = {};
  for (const [what, { asked }] of Object.entries(cases)) seen[what] = await refused(asked, what);
  expect(seen).toEqual(Object.fromEntries(Object.entries(cases).map(([what, { expected }]) => [what, expected])));
  expect(dump(server.dataDir)).toEqual(before);
};

const MALFORMED = [400, 'http.malformed'] as const;
const TYPE = [415, 'http.unsupported_media_type'] as const;
const TOO_LARGE = [413, 'http.too_large'] as const;
const deep = (levels: number) => `${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`;
const changed = (
  asked: Asked,
  headers: Record<string, string | undefined>,
  body?: Asked['body'],
  claimBytes?: number,
): Asked => ({
  ...asked,
  headers: Object.fromEntries(
    Object.entries({ ...asked.headers, ...headers }).filter(
      (entry): entry is [string, string] => entry[1] !== undefined,
    ),
  ),
  ...(body === undefined ? {} : { body }),
  ...(claimBytes === undefined ? {} : { claimBytes }),
});
const bombs = { gzip: gzipSync(Buffer.alloc(64 * MIB)), zstd: zstdCompressSync(Buffer.alloc(64 * MIB)) };
const limitOf = (endpoint: Endpoint): number =>
  endpoint.bodyLimitBytes ?? (endpoint.caller === 'anyone' ? MIB / 4 : 8 * MIB);

test('the list of endpoints is not empty, and each has its sample', () => {
  expect(endpoints.length).toBeGreaterThan(30);
  for (const endpoint of endpoints) expect(requestOf(staged, endpoint).method).toBe(endpoint.method);
});

test.each(withBody.map((endpoint) => [endpoint.id, endpoint] as const))(
  '%s: bodies that are none',
  async (_, endpoint) => {
    const good = requestOf(staged, endpoint);
    const text = String(good.body);
    const json = (body: string) => ({ asked: changed(good, {}, body), expected: MALFORMED });
    await expectTable({
      'cut off': json(text.slice(0, -1)),
      'an array': json(`[${text}]`),
      null: json('null'),
      'a string': json('"text"'),
      'a number': json('1'),
      'two documents': json(`${text}${text}`),
      'not UTF-8': {
        asked: changed(good, {}, Buffer.concat([Buffer.from('{"\xff'), Buffer.from([0xff]), Buffer.from('":1}')])),
        expected: MALFORMED,
      },
      'with a byte order mark': json(`\ufeff${text.slice(1)}`),
      'too deep': json(`${text.slice(0, -1)}${text === '{}' ? '' : ','}"x":${deep(40)}}`),
      'very deep': json(`{"x":${'['.repeat(100_000)}`),
      __proto__: json(`${text.slice(0, -1)}${text === '{}' ? '' : ','}"__proto__":{"role":"admin"}}`),
      'a form': { asked: changed(good, { 'content-type': 'application/x-www-form-urlencoded' }), expected: TYPE },
      'plain text': { asked: changed(good, { 'content-type': 'text/plain' }), expected: TYPE },
      'no type': { asked: changed(good, { 'content-type': undefined }), expected: TYPE },
      'another charset': {
        asked: changed(good, { 'content-type': 'application/json; charset=utf-16' }),
        expected: TYPE,
      },
      'an unknown encoding': { asked: changed(good, { 'content-encoding': 'br' }), expected: TYPE },
      'not gzip': { asked: changed(good, { 'content-encoding': 'gzip' }), expected: MALFORMED },
      'not zstd': { asked: changed(good, { 'content-encoding': 'zstd' }), expected: MALFORMED },
      'gzip cut off': {
        asked: changed(good, { 'content-encoding': 'gzip' }, gzipSync(text).subarray(0, 12)),
        expected: MALFORMED,
      },
      'a gzip bomb': { asked: changed(good, { 'content-encoding': 'gzip' }, bombs.gzip), expected: TOO_LARGE },
      'a zstd bomb': { asked: changed(good, { 'content-encoding': 'zstd' }, bombs.zstd), expected: TOO_LARGE },
      'too large': { asked: changed(good, {}, ' ', limitOf(endpoint) + 1), expected: TOO_LARGE },
      ...(endpoint.door === 'api'
        ? { 'an unknown field': json(`${text.slice(0, -1)}${text === '{}' ? '' : ','}"unknown":1}`) }
        : {}),
    });
  },
);

test.each(withBody.map((endpoint) => [endpoint.id, endpoint] as const))(
  '%s: fields of wrong types',
  async (_, endpoint) => {
    if (!endpoint.body) throw new Error('no body');
    const cases = wrongBodies(endpoint.body, staged.samples[endpoint.id]?.body).map(
      ({ field, what, value }) =>
        [`${field}: ${what}`, { asked: requestOf(staged, endpoint, { body: value }), expected: MALFORMED }] as const,
    );
    await expectTable(Object.fromEntries(cases));
  },
);

test("the seeds' doors overlook fields that they do not know, ours do not", async () => {
  const body = {
    command_type: 'exec',
    payload: { argv: ['true'] },
    targets: [staged.node.name],
    dry_run: true,
    colour: 'red',
  };
  const submit = (id: string) => {
    const endpoint = endpoints.find((one) => one.id === id);
    if (!endpoint) throw new Error(`no endpoint ${id}`);
    return refused(requestOf(staged, endpoint, { body }), id);
  };
  expect([await submit('seedSubmit'), await submit('submitCommand')]).toEqual([[202, null], MALFORMED]);
});

test.each(withQuery.map((endpoint) => [endpoint.id, endpoint] as const))(
  '%s: query values of wrong types',
  async (_, endpoint) => {
    if (!endpoint.query) throw new Error('no query');
    const cursors = [
      'garbage',
      Buffer.from('[]').toString('base64url'),
      Buffer.from('[null]').toString('base64url'),
      Buffer.from('{"a":1}').toString('base64url'),
      '',
    ];
    const own = staged.samples[endpoint.id]?.query;
    const names = wrongQueries(endpoint.query).map(({ name }) => name);
    await expectTable({
      ...Object.fromEntries(
        wrongQueries(endpoint.query).map(({ name, value }) => [
          `${name}=${value.slice(0, 20)}`,
          { asked: requestOf(staged, endpoint, { query: { ...own, [name]: value } }), expected: MALFORMED },
        ]),
      ),
      ...(names.includes('cursor')
        ? Object.fromEntries(
            cursors.map((cursor) => [
              `cursor=${cursor}`,
              {
                asked: requestOf(staged, endpoint, { query: { ...own, cursor } }),
                expected: [400, 'http.bad_cursor'] as const,
              },
            ]),
          )
        : {}),
    });
  },
);

const UNKNOWN = '01890000-0000-7000-8000-000000000000';
const BAD_IDS: Readonly<Record<string, readonly [string, number, string][]>> = {
  commands: [
    ['x', 400, 'http.malformed'],
    [UNKNOWN.slice(1), 400, 'http.malformed'],
    [`${UNKNOWN}'--`, 400, 'http.malformed'],
    [UNKNOWN, 404, 'commands.unknown_command'],
  ],
  executions: [
    ['x', 400, 'http.malformed'],
    [UNKNOWN, 404, 'commands.unknown_execution'],
  ],
  agents: [
    ['nobody', 404, 'nodes.unknown_node'],
    ["'; drop table nodes", 404, 'nodes.unknown_node'],
    ['\0', 400, 'http.malformed'],
    [UNKNOWN, 404, 'nodes.unknown_node'],
    ['x'.repeat(129), 400, 'http.malformed'],
  ],
  artifacts: [
    ['artifact_123', 404, 'artifacts.unknown_artifact'],
    ["'; drop table artifacts", 404, 'artifacts.unknown_artifact'],
    ['\0', 404, 'artifacts.unknown_artifact'],
    [UNKNOWN, 404, 'artifacts.unknown_artifact'],
    ['x'.repeat(129), 400, 'http.malformed'],
  ],
  keys: [
    ['x', 404, 'access.unknown_key'],
    ['x'.repeat(65), 400, 'http.malformed'],
  ],
  tokens: [
    ['x', 404, 'access.unknown_token'],
    ['x'.repeat(65), 400, 'http.malformed'],
  ],
  'join-tokens': [
    ['x', 404, 'access.unknown_token'],
    ['x'.repeat(65), 400, 'http.malformed'],
  ],
};
test.each(endpoints.filter(({ path }) => path.includes('{id}')).map((endpoint) => [endpoint.id, endpoint] as const))(
  '%s: ids that are none',
  async (_, endpoint) => {
    const kind = /([\w-]+)\/\{id\}/.exec(endpoint.path)?.[1] ?? '';
    const ids = BAD_IDS[kind];
    if (!ids) throw new Error(`what do bad ids below '${kind}' lead to? Add them to BAD_IDS`);
    const own: Sample = staged.samples[endpoint.id] ?? {};
    await expectTable({
      ...Object.fromEntries(
        ids.map(([id, status, code]) => [
          id,
          { asked: requestOf(staged, endpoint, { params: { ...own.params, id } }), expected: [status, code] as const },
        ]),
      ),
      ...(endpoint.path.includes('{stream}')
        ? {
            stdin: {
              asked: requestOf(staged, endpoint, { params: { ...own.params, stream: 'stdin' } }),
              expected: MALFORMED,
            },
          }
        : {}),
      'not a path': {
        asked: {
          ...requestOf(staged, endpoint),
          path: endpoint.path.replace('{id}', '%E0%A4%A').replace('{stream}', 'stdout'),
        },
        expected: MALFORMED,
      },
    });
  },
);

test.each(endpoints.filter(({ caller }) => caller !== 'anyone').map((endpoint) => [endpoint.id, endpoint] as const))(
  '%s: bearers that are none',
  async (_, endpoint) => {
    const side = endpoint.caller === 'node' ? 'nodes' : 'operators';
    const weaker = {
      admin: ['viewer', 'operator'],
      operator: ['viewer'],
      viewer: [],
      node: [],
      'viewer-or-node': [],
      anyone: [],
    } as const;
    const nodesToo = endpoint.caller === 'viewer-or-node';
    const good = requestOf(staged, endpoint);
    const as = (bearer: string | null) =>
      changed(good, { authorization: bearer === null ? undefined : `Bearer ${bearer}` });
    await expectTable({
      ...Object.fromEntries(
        Object.entries(bad)
          .filter(([, row]) => row[side][0] !== 200 && !(nodesToo && row.nodes[0] === 200))
          .map(([who, row]) => [who, { asked: as(row.bearer), expected: row[side] }]),
      ),
      ...Object.fromEntries(
        weaker[endpoint.caller].map((role) => [
          role,
          { asked: as(staged.bearers[role]), expected: [403, 'access.forbidden'] as const },
        ]),
      ),
      'another scheme': {
        asked: changed(good, { authorization: 'Basic YTpi' }),
        expected: [401, 'access.unauthenticated'],
      },
      'an empty one': { asked: changed(good, { authorization: 'Bearer ' }), expected: [401, 'access.unauthenticated'] },
    });
  },
);

describe('well-formed, and refused for what they say', () => {
  const named = (id: string): Endpoint => {
    const endpoint = endpoints.find((one) => one.id === id);
    if (!endpoint) throw new Error(`no endpoint ${id}`);
    return endpoint;
  };
  const with_ = (id: string, body: object, expected: readonly [number, string]) => ({
    asked: requestOf(staged, named(id), { body: { ...(staged.samples[id]?.body as object), ...body } }),
    expected,
  });
  test('submissions', () =>
    expectTable({
      'an unknown type': with_('submitCommand', { command_type: 'LaunchRockets' }, [422, 'commands.unsupported_type']),
      'an inherited type': with_('submitCommand', { command_type: 'toString' }, [422, 'commands.unsupported_type']),
      'a payload of another type': with_('submitCommand', { payload: { argv: 'true' } }, [
        422,
        'commands.invalid_payload',
      ]),
      'no payload': with_('submitCommand', { payload: undefined }, [422, 'commands.invalid_payload']),
      'both cmd and argv': with_('submitCommand', { payload: { cmd: 'true', argv: ['true'] } }, [
        422,
        'commands.invalid_payload',
      ]),
      'a NUL in an argument': with_('submitCommand', { payload: { argv: ['a\0b'] } }, [
        422,
        'commands.invalid_payload',
      ]),
      'standard input that is no base64': with_(
        'submitCommand',
        { payload: { cmd: 'cat', stdin: 'YWJj*', stdin_encoding: 'base64' } },
        [422, 'commands.invalid_payload'],
      ),
      'an unknown target': with_('submitCommand', { targets: 'nobody' }, [422, 'commands.unknown_target']),
      'no targets': with_('submitCommand', { targets: undefined }, [422, 'commands.no_target']),
      'a broken selector': with_('submitCommand', { targets: 'site=fra and (' }, [422, 'commands.bad_selector']),
      'a selector that matches nobody': with_('submitCommand', { targets: 'site=nowhere' }, [
        422,
        'commands.no_target',
      ]),
      'too late a start': with_('submitCommand', { scheduled_at: '2099-01-01T00:00:00Z' }, [
        422,
        'commands.invalid_payload',
      ]),
      'a start that does not exist': with_('submitCommand', { scheduled_at: '2026-02-30T00:00:00Z' }, [
        400,
        'http.malformed',
      ]),
    }));
  test('artifacts', async () => {
    const path = (id: string, params: Record<string, string>) => ({
      params: { ...staged.samples[id]?.params, ...params },
    });
    const to = (id: string, params: Record<string, string>, expected: readonly [number, string]) => ({
      asked: requestOf(staged, named(id), path(id, params)),
      expected,
    });
    await expectTable({
      'a bundle that is none': with_('createArtifact', { data: 'AAAA' }, [422, 'artifacts.bad_bundle']),
      'an empty bundle': with_('createArtifact', { data: '' }, [422, 'artifacts.bad_bundle']),
      'no base64': with_('createArtifact', { data: '*' }, MALFORMED),
      unsigned: with_('createArtifact', { signature: undefined }, [422, 'artifacts.unsigned']),
      'a signature that is none': with_('createArtifact', { signature: 'x' }, [403, 'artifacts.bad_signature']),
      'another name': with_('createArtifact', { name: 'other' }, [422, 'artifacts.field_mismatch']),
      'an artifact that is assigned': to('deleteArtifact', { id: staged.samples.showArtifact?.params?.id ?? '' }, [
        409,
        'artifacts.assigned',
      ]),
      'assigned to nobody': to('assignArtifact', { host_id: 'nobody' }, [404, 'artifacts.unknown_host']),
      "the seed's id": to('assignArtifact', { artifact_id: 'artifact_123' }, [404, 'artifacts.unknown_artifact']),
      'a constant that there is not': with_('assignArtifact', { constants: { colour: 1 } }, [
        422,
        'artifacts.unknown_constant',
      ]),
      'a constant that is fixed': with_('assignArtifact', { constants: { fixed: 1 } }, [422, 'artifacts.not_settable']),
      'a constant of another type': with_('assignArtifact', { constants: { target_ip: 'x' } }, [
        422,
        'artifacts.bad_constant',
      ]),
      'off nobody': to('unassignArtifact', { host_id: 'nobody' }, [404, 'artifacts.unknown_host']),
      'off where it is not': to('unassignArtifact', { host_id: staged.other.name }, [404, 'artifacts.not_assigned']),
      'hosts that there are not': with_('putHosts', { hosts: ['nobody'] }, [404, 'artifacts.unknown_host']),
      'targets that there are not': with_('assignMany', { targets: ['nobody'] }, [422, 'artifacts.unknown_target']),
      'a version that there is not': with_('assignMany', { artifact: 'stage@9.9.9' }, [
        404,
        'artifacts.unknown_artifact',
      ]),
      'a report of what is not assigned': with_('postArtifactStatus', { name: 'other' }, [
        404,
        'artifacts.not_assigned',
      ]),
      'a report of what was never issued': with_('postArtifactStatus', { generation: 2 }, [
        409,
        'artifacts.generation_conflict',
      ]),
    });
  });
  test("another node's executions", async () => {
    const { commandId: command_id, executionId: execution_id } = staged.other.running;
    const ids = { command_id, execution_id };
    const unknown = [404, 'commands.unknown_execution'] as const;
    await expectTable({
      'to acknowledge': with_('ackCommands', { ids: [execution_id] }, unknown),
      'to add output by name': with_('pushLogs', ids, unknown),
      'to add output by attempt': with_('pushLogs', { command_id, execution_id: undefined }, unknown),
      'to report': with_('pushStatus', { reports: undefined, ...ids, state: 'running' }, unknown),
      'to put output': {
        asked: requestOf(staged, named('putOutput'), { params: { id: execution_id, stream: 'stdout' } }),
        expected: unknown,
      },
    });
  });
  test('output', () =>
    expectTable({
      'ahead of what is stored': with_('pushLogs', { chunks: [{ stream: 'stdout', offset: 999, data: 'x' }] }, [
        409,
        'commands.offset_ahead',
      ]),
      'beyond 2^53': with_(
        'pushLogs',
        {
          chunks: [{ stream: 'stdout', offset: 9, gap: Number.MAX_SAFE_INTEGER, reason: 'x' }],
        },
        [400, 'http.malformed'],
      ),
      'no base64': with_('pushLogs', { chunks: [{ stream: 'stdout', offset: 0, data: '***', encoding: 'base64' }] }, [
        400,
        'http.malformed',
      ]),
      'half a character': with_('pushLogs', { chunks: [{ stream: 'stdout', offset: 0, data: '\ud800' }] }, [
        400,
        'http.malformed',
      ]),
      'as JSON where bytes are wanted': {
        asked: changed(requestOf(staged, named('putOutput')), { 'content-type': 'application/json' }),
        expected: TYPE,
      },
      'too many bytes': {
        asked: changed(requestOf(staged, named('putOutput')), {}, ' ', 8 * MIB + 1),
        expected: TOO_LARGE,
      },
    }));
});

test('a seeded sample of random and mutated requests leaves the server up and its database consistent', async () => {
  const outcome = await fuzz({ staged, endpoints, count: 2000, seed: Number(process.env.AEGIS_SEED ?? 20261121) });
  expect(outcome.faults).toEqual([]);
  expect(outcome.accepted).toBeGreaterThan(50); // it is not all refused at the door
  expect((await exchange({ method: 'GET', path: '/healthz' })).status).toBe(200);
  expect(faultsIn(server.dataDir)).toEqual([]);
}, 60_000);
