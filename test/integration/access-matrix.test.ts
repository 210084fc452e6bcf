import { join } from 'node:path';
import { listAudit } from '@aegis/protocol/access/audit-endpoints';
import { createToken, revokeToken } from '@aegis/protocol/access/endpoints';
import { type Role, roleAllows, takesOperators } from '@aegis/protocol/access/roles';
import { registerAgent } from '@aegis/protocol/backups/agent-endpoints';
import type { Endpoint } from '@aegis/protocol/endpoint';
import { apiPatchNode, apiRetireNode } from '@aegis/protocol/nodes/endpoints';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { issueToken } from '../../packages/server/src/offline.ts';
import { route } from '../../packages/server/src/platform/http/route.ts';
import { handClock, startTestServer, type TestServer } from '../../packages/server/test/start-test-server.ts';
import { dump } from '../fleet/database.ts';
import { codeOf, type Exchange, exchangeWith } from '../fleet/exchange.ts';
import { root } from '../fleet/fleet.ts';
import { allEndpoints, requestOf, type Sample, type Staged, stage } from '../fleet/samples.ts';

/** Every route of the server called as everyone, with a good request: who gets in is what the endpoint declares, and docs/access-routes.md
 *  shows the same table (new with 'vitest run test/integration/access-matrix.test.ts --update'). Then, by name, those who try what they may not. */

const endpoints = await allEndpoints();
const OURS = /^(access\.(unauthenticated|forbidden|beyond_scope)|nodes\.(retired|deactivated))$/;

interface Who {
  name: string;
  kind: 'nobody' | 'operator' | 'node' | 'retired node' | 'agent key';
  role?: Role;
  scoped?: boolean;
}
// Those who change most come last: what they take away was needed before.
const WHO = [
  { name: 'nobody', kind: 'nobody' },
  { name: 'revoked token', kind: 'nobody' },
  { name: 'expired token', kind: 'nobody' },
  { name: 'changed token', kind: 'nobody' },
  { name: 'garbage', kind: 'nobody' },
  { name: 'join token', kind: 'nobody' },
  { name: 'expired node', kind: 'nobody' },
  { name: 'retired node', kind: 'retired node' },
  { name: 'agent key', kind: 'agent key' },
  { name: 'keyless node', kind: 'node' },
  { name: 'other node', kind: 'node' },
  { name: 'node', kind: 'node' },
  { name: 'viewer', kind: 'operator', role: 'viewer' },
  { name: 'scoped viewer', kind: 'operator', role: 'viewer', scoped: true },
  { name: 'scoped operator', kind: 'operator', role: 'operator', scoped: true },
  { name: 'scoped admin', kind: 'operator', role: 'admin', scoped: true },
  { name: 'operator', kind: 'operator', role: 'operator' },
  { name: 'admin', kind: 'operator', role: 'admin' },
] as const satisfies readonly Who[];
type Name = (typeof WHO)[number]['name'];

const IN = 'in';
/** What the declaration says: `in`, or how the door refuses. */
const declared = (endpoint: Endpoint, { kind, role, scoped }: Who): string => {
  const { caller, scope } = endpoint;
  if (caller === 'anyone') return IN;
  if (kind === 'nobody' || (kind === 'agent key' && endpoint.agentKey !== true)) return '401 access.unauthenticated';
  if (kind === 'retired node') return '403 nodes.retired';
  if (kind !== 'operator') return caller === 'node' || caller === 'viewer-or-node' ? IN : '403 access.forbidden';
  if (caller === 'node' || !role || !roleAllows(role, caller === 'viewer-or-node' ? 'viewer' : caller))
    return '403 access.forbidden';
  return scoped && scope === 'fleet' ? '403 access.beyond_scope' : IN;
};
/** Where the handler judges by itself who calls: the one door for anyone that wants somebody after all, and what is a node's own. */
const judged = ({ id }: Endpoint, who: Who): string | null => {
  if (id === 'artifactsForHost' && ['other node', 'keyless node'].includes(who.name)) return '403 access.forbidden';
  if (id !== 'registerKeyless') return null;
  if (who.name === 'join token') return IN;
  if (who.kind !== 'operator' && who.kind !== 'node') return '401 access.unauthenticated';
  if (who.kind === 'operator' && who.scoped) return '403 access.beyond_scope';
  return who.kind === 'operator' && who.role === 'admin' ? IN : '403 access.forbidden';
};

let server: TestServer;
let staged: Staged;
let exchange: Exchange;
let headers: Record<Name, Record<string, string>>;
const clock = handClock();
const tokenFor = async (role: Role, more: { scope?: string; ttl_sec?: number } = {}) =>
  server.as('admin').call(createToken, { body: { name: `matrix ${role}`, role, ...more } });
beforeAll(async () => {
  server = await startTestServer({ clock });
  const late = await server.enrol('expires');
  clock.advance(86_400_000 - 60_000); // a node's token lives a day
  const admin = await issueToken({ dataDir: server.dataDir, role: 'admin', name: 'stage', clock });
  staged = await stage(server.url, admin, clock.now());
  for (const [{ uid }, site] of [
    [staged.node, 'fra'],
    [staged.other, 'ams'],
  ] as const)
    await server.as('admin').call(apiPatchNode, { params: { id: uid }, body: { site } });
  exchange = exchangeWith(server.url);
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
  const retired = await server.enrol('retired');
  await server.as('admin').call(apiRetireNode, { params: { id: retired.uid } });
  const [revoked, expired] = [await tokenFor('admin'), await tokenFor('admin', { ttl_sec: 60 })];
  await server.as('admin').call(revokeToken, { params: { id: revoked.id } });
  clock.advance(61_000);
  const scoped = async (role: Role) => bearer((await tokenFor(role, { scope: 'site=fra' })).token);
  const { agent } = await server.as('admin').call(registerAgent, { body: { name: 'matrix agent' } });
  const { bearers } = staged;
  headers = {
    nobody: {},
    'revoked token': bearer(revoked.token),
    'expired token': bearer(expired.token),
    'changed token': bearer(`${bearers.admin.slice(0, -8)}AAAAAAAA`),
    garbage: bearer('garbage'),
    'join token': bearer(await server.joinToken()),
    'expired node': bearer(late.token),
    'retired node': bearer(retired.token),
    'agent key': { 'x-agent-api-key': agent.apiKey },
    'keyless node': bearer(bearers.keyless),
    'other node': bearer(bearers.other),
    node: bearer(bearers.node),
    viewer: bearer(bearers.viewer),
    'scoped viewer': await scoped('viewer'),
    'scoped operator': await scoped('operator'),
    'scoped admin': await scoped('admin'),
    operator: bearer(bearers.operator),
    admin: bearer(bearers.admin),
  };
});
afterAll(async () => {
  exchange[Symbol.dispose]();
  await server.close();
});

/** Site and labels are not for those with a scope: of this sample they may change the rest. */
const CHANGED: Readonly<Record<string, Sample>> = { apiPatchNode: { body: { maintenance: false } } };
const ask = (endpoint: Endpoint, credentials: Record<string, string>, change?: Sample) => {
  const { headers: said = {}, ...asked } = requestOf(staged, endpoint, change);
  const { authorization: _, ...others } = said;
  return exchange({ ...asked, headers: { ...others, ...credentials } });
};

test('the routes that are served are those that are called here', async () => {
  const { json } = await server.as('viewer').raw('GET', '/openapi.json');
  const { paths } = json as { paths: Record<string, Record<string, { operationId: string }>> };
  const ids = Object.values(paths).flatMap((methods) => Object.values(methods).map((one) => one.operationId));
  expect(ids.sort()).toEqual(endpoints.map(({ id }) => id).sort());
});

describe('each route as each caller', () => {
  // Before any of them changes anything.
  test('what is beyond the scope is not told, not changed, and as unknown as what is not there', async () => {
    const { node, other } = staged;
    const facts = [node, other].map(({ uid, name, keys, running, queued }) => [
      uid,
      name,
      keys.keyId,
      running.commandId,
      running.executionId,
      queued.commandId,
      queued.executionId,
      `secret of ${name}`,
    ]);
    const bearer = async (role: Role) => ({
      authorization: `Bearer ${(await tokenFor(role, { scope: 'site=ams' })).token}`,
    });
    const elsewhere = {
      viewer: await bearer('viewer'),
      operator: await bearer('operator'),
      admin: await bearer('admin'),
    };
    const held = () => ({ ...dump(server.dataDir), access_audit: [], access_audit_head: [] });
    const before = held();
    const seen: string[] = [];
    for (const endpoint of endpoints) {
      if (endpoint.scope !== 'nodes') continue;
      const role = endpoint.caller === 'operator' || endpoint.caller === 'admin' ? endpoint.caller : 'viewer';
      const asked = JSON.stringify(requestOf(staged, endpoint, CHANGED[endpoint.id]));
      const told = await ask(endpoint, elsewhere[role], CHANGED[endpoint.id]);
      const leaked = (facts[0] ?? []).filter((fact) => !asked.includes(fact) && told.text.includes(fact));
      const [status] = codeOf(told);
      const is =
        status < 300 && endpoint.method === 'GET' ? 'a list' : status === 404 || status === 422 ? 'unknown' : status;
      seen.push(`${endpoint.id}: ${is}${leaked.length > 0 ? `, and tells ${leaked}` : ''}`);
    }
    expect(seen.filter((line) => !/: (a list|unknown)$/.test(line))).toEqual([]);
    expect(seen.filter((line) => line.endsWith('a list')).sort()).toEqual(LISTS.map((id) => `${id}: a list`).sort());
    expect(held()).toEqual(before);
  });

  test.each(WHO)('$name', async (who) => {
    const seen: (readonly [string, string])[] = [];
    for (const endpoint of endpoints) {
      const told = await ask(endpoint, headers[who.name], 'scoped' in who ? CHANGED[endpoint.id] : undefined);
      expect(told.status, `${endpoint.id}: ${told.text}`).not.toBe(500);
      expect(told.headers['x-request-id'], endpoint.id).toMatch(/^[0-9a-f-]{36}$/);
      expect(told.text, endpoint.id).not.toMatch(/\.ts:\d|node_modules|\\n +at /); // no stack trace
      const [status, code] = codeOf(told);
      const isRefusal = (status === 401 || status === 403) && OURS.test(code ?? '');
      seen.push([endpoint.id, isRefusal ? `${status} ${code}` : IN]);
    }
    expect(seen).toEqual(
      endpoints.map((endpoint) => [endpoint.id, judged(endpoint, who) ?? declared(endpoint, who)] as const),
    );
  });
});

test('docs/access-routes.md has the table', async () => {
  const column = (title: string, name: Name) => {
    const who = WHO.find((one) => one.name === name) as Who;
    const cell = (endpoint: Endpoint) => {
      const is = judged(endpoint, who) ?? declared(endpoint, who);
      return is === IN ? (who.scoped && endpoint.scope === 'nodes' ? 'within' : 'yes') : is.slice(0, 3);
    };
    return { title, cell };
  };
  const columns = [
    column('nobody', 'nobody'),
    column('viewer', 'viewer'),
    column('operator', 'operator'),
    column('admin', 'admin'),
    column('viewer, scope', 'scoped viewer'),
    column('operator, scope', 'scoped operator'),
    column('admin, scope', 'scoped admin'),
    column('node', 'node'),
    column('agent key', 'agent key'),
  ];
  const rows = [...endpoints]
    .sort((a, b) => (`${a.tag} ${a.path} ${a.method}` < `${b.tag} ${b.path} ${b.method}` ? -1 : 1))
    .map((one) => `| \`${one.method} ${one.path}\` | ${columns.map(({ cell }) => cell(one)).join(' | ')} |`);
  const table = [
    `| call | ${columns.map(({ title }) => title).join(' | ')} |`,
    `|---|${columns.map(() => '---').join('|')}|`,
    ...rows,
  ].join('\n');
  await expect(`${ABOUT}\n${table}\n`).toMatchFileSnapshot(join(root, 'docs/access-routes.md'));
});
const ABOUT = `# Who may call what

Made from the routes that the server registers, by the test that calls each of them as each caller
(\`test/integration/access-matrix.test.ts\`). *yes*: past the door; *within*: on the nodes within the token's scope, and others do not
exist; 401: no or bad credentials; 403: not with these. A token that is revoked, expired or changed is as none. What a node may do is further bounded
to what is its own. \`docs/access.md\` says what is behind it.
`;

test('little is told whatever the scope: what no node is in', () => {
  const open = endpoints.filter(({ scope }) => scope === 'none').map(({ id }) => id);
  expect(open.sort()).toEqual(['artifactBinary', 'listKeys', 'openApi']);
});

/** What answers with a list, of which nothing is left. */
const LISTS = [
  'listAgents',
  'apiListNodes',
  'listCommands',
  'listArtifacts',
  'showArtifact',
  'artifactsForHost',
  'artifactStatus',
  'allArtifactStatus',
];

test('a route that does not say who may call, or how scopes apply, fails the start', () => {
  const one = endpoints.find(({ id }) => id === 'apiListNodes') as Endpoint;
  const registered = (change: object) => () => route({ ...one, ...change } as Endpoint, () => undefined as never);
  expect(registered({})).not.toThrow();
  expect(registered({ caller: undefined })).toThrow(/does not declare its caller/);
  expect(registered({ caller: 'everybody' })).toThrow(/does not declare its caller/);
  for (const scope of [undefined, 'all', null]) expect(registered({ scope })).toThrow(/does not declare its scope/);
});

describe('attacks, seen in the audit', () => {
  /** What the audit says of the one call since: entries of that action that were refused. */
  const refusedSince = async (work: () => Promise<unknown>, action: string) => {
    clock.advance(61_000); // within a minute further refusals of one caller are counted in one entry
    server.running.audit.flush();
    const since = new Date(clock.now()).toISOString();
    await work();
    const { items } = await server
      .as('admin')
      .call(listAudit, { query: { limit: 10, since, outcome: 'refused', action } });
    return items.map(({ actor_name, actor_kind, code }) => [actor_name ?? actor_kind, code]);
  };
  const writing = endpoints.filter((one) => takesOperators(one.caller) && one.method !== 'GET');

  test('a viewer on each writing route', async () => {
    expect(writing.length).toBeGreaterThan(25);
    for (const endpoint of writing) {
      let refused: unknown;
      const entries = await refusedSince(async () => {
        refused = codeOf(await ask(endpoint, headers.viewer));
      }, endpoint.id);
      expect([endpoint.id, refused, entries]).toEqual([
        endpoint.id,
        [403, 'access.forbidden'],
        [['stage-viewer', 'access.forbidden']],
      ]);
    }
  });

  test('an operator beyond scope, on each route that acts on nodes, and on each that is about the fleet', async () => {
    const { token } = await tokenFor('admin', { scope: 'site=nowhere' });
    const beyond = { authorization: `Bearer ${token}` };
    for (const endpoint of endpoints) {
      if (endpoint.scope === undefined || endpoint.scope === 'none' || LISTS.includes(endpoint.id)) continue;
      let refused: ReturnType<typeof codeOf> = [0, null];
      const entries = await refusedSince(async () => {
        refused = codeOf(await ask(endpoint, beyond, CHANGED[endpoint.id]));
      }, endpoint.id);
      const [status, code] = refused;
      expect([endpoint.id, entries]).toEqual([endpoint.id, [['matrix admin', code]]]);
      expect([endpoint.id, status], `${code}`).toEqual([
        endpoint.id,
        endpoint.scope === 'fleet' ? 403 : status === 422 ? 422 : 404,
      ]);
    }
  });

  test('a scoped admin who would enlarge a scope, its own or another', async () => {
    for (const [endpoint, change] of [
      ['createToken', { body: { name: 'more', role: 'admin' } }],
      ['createToken', { body: { name: 'more', role: 'viewer', scope: 'site=fra or site=ber' } }],
      ['createToken', { body: { name: 'as much', role: 'viewer', scope: 'site=fra' } }],
      ['createJoinToken', { body: { ttl_sec: 60, uses: 1, site: 'fra' } }],
      ['apiPatchNode', { params: { id: staged.node.uid }, body: { site: 'fra' } }],
      ['apiPatchNode', { params: { id: staged.node.uid }, body: { labels: {} } }],
    ] as const) {
      await server.as('admin').call(apiPatchNode, { params: { id: staged.node.uid }, body: { site: 'fra' } });
      const asked = endpoints.find(({ id }) => id === endpoint) as Endpoint;
      let refused: unknown;
      const entries = await refusedSince(async () => {
        refused = codeOf(await ask(asked, headers['scoped admin'], change));
      }, endpoint);
      expect([endpoint, refused, entries]).toEqual([
        endpoint,
        [403, 'access.beyond_scope'],
        [['matrix admin', 'access.beyond_scope']],
      ]);
    }
  });

  test("a node that reads or reports what is another's, on each route that names something", async () => {
    const refusals: [string, string | null][] = [];
    for (const endpoint of endpoints) {
      if (endpoint.caller !== 'node' && endpoint.id !== 'artifactsForHost' && endpoint.id !== 'artifactBinary')
        continue;
      let told: ReturnType<typeof codeOf> = [0, null];
      const entries = await refusedSince(async () => {
        told = codeOf(await ask(endpoint, headers['other node']));
      }, endpoint.id);
      const [status, code] = told;
      if (![401, 403, 404].includes(status) && endpoint.id !== 'pushStatus') continue; // its own, or a form that is wrong
      refusals.push([endpoint.id, code]);
      expect([endpoint.id, entries]).toEqual([endpoint.id, [[staged.other.name, code ?? 'access.bad_signature']]]);
    }
    expect(refusals.map(([id]) => id)).toEqual(expect.arrayContaining(FOREIGN));
  });
});
/** At least. */
const FOREIGN = [
  'artifactsForHost',
  'artifactBinary',
  'postArtifactStatus',
  'ackCommands',
  'pushLogs',
  'pushStatus',
  'putOutput',
  'signBackupRequests',
  'postBackupProgress',
  'endBackupRun',
  'backupRestoreSource',
  'answerMessage',
];
