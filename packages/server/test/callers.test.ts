import * as audit from '@aegis/protocol/access/audit-endpoints';
import * as access from '@aegis/protocol/access/endpoints';
import type { Caller } from '@aegis/protocol/access/roles';
import * as trust from '@aegis/protocol/access/trust-endpoints';
import * as artifacts from '@aegis/protocol/artifacts/endpoints';
import * as backupsAgents from '@aegis/protocol/backups/agent-endpoints';
import * as backups from '@aegis/protocol/backups/endpoints';
import * as backupsNodes from '@aegis/protocol/backups/node-endpoints';
import * as commands from '@aegis/protocol/commands/endpoints';
import { type Endpoint, pathOf } from '@aegis/protocol/endpoint';
import * as events from '@aegis/protocol/events/endpoints';
import * as messages from '@aegis/protocol/messages/endpoints';
import * as messagesNodes from '@aegis/protocol/messages/node-endpoints';
import * as nodes from '@aegis/protocol/nodes/endpoints';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { route } from '../src/platform/http/route.ts';
import { handClock, startTestServer, type TestServer } from './start-test-server.ts';
import type { TestClient } from './test-client.ts';

/** Every route of the protocol, called as everyone. */

const isEndpoint = (value: unknown): value is Endpoint =>
  typeof value === 'object' && value !== null && 'door' in value && 'caller' in value;
const ENDPOINTS = [
  access,
  trust,
  audit,
  nodes,
  commands,
  artifacts,
  backups,
  backupsNodes,
  backupsAgents,
  messages,
  messagesNodes,
  events,
].flatMap((part) => Object.values(part).filter(isEndpoint));

const WHO = [
  'nobody',
  'viewer',
  'operator',
  'admin',
  'node',
  'keyless',
  'retired node',
  'expired node token',
  'expired operator token',
  'revoked operator token',
  'wrong secret',
  'garbage',
  'join token',
] as const;
type Who = (typeof WHO)[number];

/** 'in': past the door (whatever the handler then says, short of a failure). */
const expected = (caller: Caller, who: Who): 'in' | 401 | 403 => {
  if (caller === 'anyone') return 'in';
  if (caller === 'viewer-or-node') {
    const [operator, node] = [expected('viewer', who), expected('node', who)];
    return operator === 'in' || node === 'in' ? 'in' : operator;
  }
  switch (who) {
    case 'viewer':
    case 'operator':
    case 'admin':
      return caller !== 'node' && WHO.indexOf(who) >= WHO.indexOf(caller) ? 'in' : 403;
    case 'node':
    case 'keyless':
      return caller === 'node' ? 'in' : 403;
    case 'retired node':
      return 403;
    default:
      return 401;
  }
};

describe('every route as everyone', () => {
  const clock = handClock();
  let server: TestServer;
  let clients: Record<Who, TestClient>;
  beforeAll(async () => {
    server = await startTestServer({ clock });
    const admin = server.as('admin');
    const make = (name: string, ttl_sec?: number) =>
      admin.call(access.createToken, { body: { name, role: 'admin', ...(ttl_sec ? { ttl_sec } : {}) } });
    const expiring = await make('expiring', 60);
    const revoked = await make('revoked');
    await admin.call(access.revokeToken, { params: { id: revoked.id } });
    const oldToken = (await server.enrol('old')).token;
    const retired = await server.enrol('retired');
    clock.advance(86_400_000 - 30_000);
    const node = await server.enrol('node');
    const retiredLate = await server.enrol('retired-late');
    await admin.call(nodes.apiRetireNode, { params: { id: retiredLate.uid } });
    await admin.call(nodes.apiRetireNode, { params: { id: retired.uid } });
    clock.advance(60_000);
    clients = {
      nobody: server.as('anyone'),
      viewer: server.as('viewer'),
      operator: server.as('operator'),
      admin,
      node,
      keyless: await server.keyless('keyless'),
      'retired node': retiredLate,
      'expired node token': server.withToken(oldToken),
      'expired operator token': server.withToken(expiring.token),
      'revoked operator token': server.withToken(revoked.token),
      'wrong secret': server.withToken(`${expiring.token.slice(0, -43)}${'A'.repeat(43)}`),
      garbage: server.withToken('garbage'),
      'join token': server.withToken(await server.joinToken()),
    };
  });
  afterAll(() => server.close());

  const call = (client: TestClient, endpoint: Endpoint, who: Who) => {
    const id = '01890000-0000-7000-8000-000000000000';
    const params = { id, stream: 'stdout', artifact_id: id, host_id: who }; // the nodes bear these names
    const body = endpoint.rawBody ? 'bytes' : endpoint.body ? '{"nonsense":1}' : undefined;
    const type = endpoint.rawBody ? 'application/octet-stream' : 'application/json';
    return client.raw(
      endpoint.method,
      `${pathOf(endpoint, params)}${endpoint.rawBody ? '?offset=0' : endpoint === events.readEvents ? '?follow=false' : ''}`,
      {
        ...(body === undefined ? {} : { body, headers: { 'content-type': type } }),
      },
    );
  };

  test.each(WHO)('%s', async (who) => {
    const seen = await Promise.all(
      ENDPOINTS.map(async (endpoint) => {
        const { status, headers, text } = await call(clients[who], endpoint, who);
        expect(headers.get('x-request-id'), endpoint.id).toMatch(/^[0-9a-f-]{36}$/);
        expect(text, endpoint.id).not.toMatch(/\.ts:\d|node_modules| at /); // no stack trace
        const outcome = status === 401 || status === 403 ? status : status < 500 ? 'in' : `failed ${status}`;
        return [endpoint.id, outcome] as const;
      }),
    );
    const wanted = ENDPOINTS.map((endpoint) => [endpoint.id, expected(endpoint.caller, who)] as const);
    expect(seen).toEqual(wanted);
  });

  test('the routes served are the endpoints of the protocol, all of them', async () => {
    const { json } = await server.as('viewer').raw('GET', '/openapi.json');
    const { openapi, paths } = json as {
      openapi: string;
      paths: Record<string, Record<string, { operationId: string }>>;
    };
    const ids = Object.values(paths).flatMap((methods) => Object.values(methods).map(({ operationId }) => operationId));
    expect(openapi).toBe('3.1.0');
    expect(ids.sort()).toEqual([...ENDPOINTS.map(({ id }) => id), 'openApi'].sort());
    expect((await server.as('anyone').raw('GET', '/openapi.json')).status).toBe(401);
  });
});

test('an endpoint that does not say who may call cannot be registered', () => {
  const undeclared = { ...nodes.healthz, id: 'undeclared', caller: undefined } as unknown as Endpoint;
  expect(() => route(undeclared, () => undefined as never)).toThrow(/does not declare its caller/);
});

test('failed credentials are limited per address', async () => {
  await using server = await startTestServer({
    clock: handClock(),
    config: { rate_limits_failed_auth_burst: 3, rate_limits_failed_auth_per_sec: 1 },
  });
  const bad = server.withToken('garbage');
  const statuses: number[] = [];
  for (let at = 0; at < 5; at++) statuses.push((await bad.send(nodes.listAgents)).status);
  expect(statuses).toEqual([401, 401, 401, 429, 429]);
  expect((await bad.send(nodes.listAgents)).headers.get('retry-after')).toBe('1');
  expect((await server.as('viewer').send(nodes.listAgents)).status).toBe(200);
});
