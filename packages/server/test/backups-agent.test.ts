import { createHash } from 'node:crypto';
import * as api from '@aegis/protocol/backups/agent-endpoints';
import { nodeLog, showRun } from '@aegis/protocol/backups/endpoints';
import { pollCommands } from '@aegis/protocol/commands/endpoints';
import { activateNode, apiRetireNode, apiShowNode, deactivateNode, listAgents } from '@aegis/protocol/nodes/endpoints';
import { describe, expect, test } from 'vitest';
import { sentence } from './artifacts-support.ts';
import { register, statusOf, withKey } from './backups-agent-support.ts';
import { create } from './backups-support.ts';
import { STORAGES } from './commands-support.ts';
import { handClock, startTestServer } from './start-test-server.ts';

/** Seed 004’s API: its calls as documented, and who is let in. */

describe.each(STORAGES)('%s', (storage) => {
  test('register, heartbeat, log: as documented, and the key is stored as its hash alone', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const answer = await server.as('operator').raw('POST', '/api/agent/register', {
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ name: "David's MacBook", platform: 'darwin', more: 'ignored' }),
    });
    expect(answer.json).toEqual({
      success: true,
      agent: {
        id: expect.stringMatching(/^[0-9a-f-]{36}$/),
        name: "David's MacBook",
        apiKey: expect.stringMatching(/^aegis-agent-[A-Za-z0-9_-]{43}$/),
        status: 'offline',
        node: 'Davids-MacBook',
      },
    });
    const { id, apiKey } = (answer.json as { agent: { id: string; apiKey: string } }).agent;
    const node = await server.as('viewer').call(apiShowNode, { params: { id: 'Davids-MacBook' } });
    expect(node).toMatchObject({ uid: id, keyless: true, status: 'offline', last_seen: null, deactivated: false });
    const rows = await server.running.storage.read.selectFrom('nodes_api_keys').selectAll().execute();
    expect(rows.map(({ key_sha256, node_uid, created_by }) => ({ key_sha256, node_uid, created_by }))).toEqual([
      { key_sha256: createHash('sha256').update(apiKey).digest('hex'), node_uid: id, created_by: 'test-operator' },
    ]);
    expect(JSON.stringify([rows, node])).not.toContain(apiKey.slice(12));

    const agent = withKey(server, apiKey);
    const beat = await agent.raw('POST', '/api/agent/heartbeat', '{"version":"0.1.0","platform":"darwin","x":1}');
    expect([beat.status, beat.json]).toEqual([200, { success: true, status: 'online' }]);
    expect(await server.as('viewer').call(apiShowNode, { params: { id } })).toMatchObject({
      status: 'online',
      version: '0.1.0',
      os: 'darwin',
      last_seen: new Date(clock.now()).toISOString(),
    });
    const line = {
      level: 'info',
      message: 'Scanning directory /Users/davidsells/backup',
      metadata: { filesFound: 150 },
    };
    const logged = await agent.raw('POST', '/api/agent/log', JSON.stringify(line));
    expect([logged.status, logged.json]).toEqual([200, { success: true }]);
    await agent.call(api.agentLog, { body: { level: 'error', message: 'again\0' } });
    expect((await server.as('viewer').call(nodeLog, { params: { id } })).items).toEqual([
      { at: new Date(clock.now()).toISOString(), ...line, run_id: null },
      { at: new Date(clock.now()).toISOString(), level: 'error', message: 'again\uFFFD', metadata: null, run_id: null },
    ]);
  });

  test('online, offline, error: by heartbeats, by what they say, and by silence', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const { id, apiKey } = await register(server);
    const agent = withKey(server, apiKey);
    const listed = async (status: 'online' | 'offline' | 'error' | 'degraded') =>
      (await server.as('viewer').call(listAgents, { query: { status } })).agents.length;
    const seen: unknown[] = [];
    const look = async (what: string) => {
      const status = await statusOf(server, id);
      seen.push([what, status, await listed(status as 'online')]);
    };
    await look('registered');
    await agent.call(api.agentHeartbeat, { body: {} });
    await look('heartbeat');
    expect(await agent.call(api.agentHeartbeat, { body: { status: 'error' } })).toEqual({
      success: true,
      status: 'error',
    });
    await look('says error');
    clock.advance(200_000);
    await look('silence');
    await agent.call(api.agentHeartbeat, { body: {} });
    await look('heartbeat');
    await agent.call(api.agentHeartbeat, { body: { status: 'offline' } });
    await look('says offline');
    await agent.call(api.agentHeartbeat, { body: {} });
    clock.advance(60_000);
    await look('late');
    expect(seen).toEqual([
      ['registered', 'offline', 1],
      ['heartbeat', 'online', 1],
      ['says error', 'error', 1],
      ['silence', 'offline', 1],
      ['heartbeat', 'online', 1],
      ['says offline', 'offline', 1],
      ['late', 'degraded', 1],
    ]);
  });

  test('deactivated, activated and deleted: the key is refused at once', async () => {
    await using server = await startTestServer({ storage });
    const { id, apiKey } = await register(server);
    const agent = withKey(server, apiKey);
    const beat = async () => {
      const { status, json } = await agent.send(api.agentHeartbeat, { body: {} });
      return [status, (json as { error?: { code: string } }).error?.code];
    };
    expect(await beat()).toEqual([200, undefined]);
    await server.as('operator').call(deactivateNode, { params: { id } });
    expect(await beat()).toEqual([403, 'nodes.deactivated']);
    expect(await statusOf(server, id)).toBe('offline');
    await server.restart();
    expect(await beat()).toEqual([403, 'nodes.deactivated']);
    await server.as('operator').call(activateNode, { params: { id } });
    expect(await beat()).toEqual([200, undefined]);
    await server.as('admin').call(apiRetireNode, { params: { id } });
    expect(await beat()).toEqual([403, 'nodes.retired']);
    expect(await sentence(server.as('operator').call(activateNode, { params: { id } }))).toMatch(
      /^403 nodes\.retired: /,
    );
    const again = await register(server); // the name is free again
    expect(again.id).not.toBe(id);
    // A node with a key is deactivated in the same way.
    const web = await server.enrol('web-1');
    await server.as('operator').call(deactivateNode, { params: { id: 'web-1' } });
    expect(await sentence(web.call(pollCommands))).toMatch(/^403 nodes\.deactivated: The node 'web-1' is deactivated/);
  });
});

test('what an agent may not: each in the seed’s envelope beside ours', async () => {
  await using server = await startTestServer({ config: { rate_limits_agent_burst: 1000 } });
  const { id, apiKey } = await register(server);
  const other = await register(server, 'other');
  const agent = withKey(server, apiKey);
  const web = await server.enrol('web-1');
  const asked = async (body: unknown, key = apiKey) => {
    const { status, json, headers } = await withKey(server, key).raw(
      'POST',
      '/api/agent/backup/start',
      typeof body === 'string' ? body : JSON.stringify(body),
    );
    const { success, error, request_id } = json as {
      success: boolean;
      error: { code: string };
      request_id: string;
    };
    expect([success, request_id]).toEqual([false, headers.get('x-request-id')]);
    return `${status} ${error.code}`;
  };
  const s3 = (name: string, more: Record<string, unknown>, destination: Record<string, unknown> = {}) =>
    create(
      server,
      {
        name,
        nodes: ['other', 'Davids-MacBook'],
        destination: { kind: 's3', bucket: 'a-bucket', endpoint: 'http://127.0.0.1:1', ...destination },
        ...more,
      },
      { credentials: { access_key_id: 'KEYKEY', secret_access_key: 'secretsecret' } },
    ).then(({ config }) => config.config_id);
  const signed = await s3('signed', {});
  const sealed = await s3(
    'sealed',
    { encryption: { recipients: ['age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p'] } },
    { access: 'static' },
  );
  const locked = await s3('locked', {}, { access: 'static', object_lock_days: 3 });
  const folder = (await create(server, { name: 'folder', nodes: ['Davids-MacBook'] })).config.config_id;
  const foreign = (await create(server, { name: 'foreign', nodes: ['web-1'] })).config.config_id;
  const usable = await s3('usable', {}, { access: 'static' });
  expect(await asked({ configId: signed })).toBe('422 backups.unsupported');
  expect(await asked({ configId: sealed })).toBe('422 backups.unsupported');
  expect(await asked({ configId: locked })).toBe('422 backups.unsupported');
  expect(await asked({ configId: folder })).toBe('422 backups.unsupported');
  expect(await asked({ configId: foreign })).toBe('403 backups.not_assigned');
  expect(await asked({ configId: id })).toBe('403 backups.not_assigned');
  expect(await asked({ configId: 'nonsense' })).toBe('403 backups.not_assigned');
  expect(await asked({})).toBe('400 http.malformed');
  expect(await asked('{')).toBe('400 http.malformed');
  expect(await asked({ configId: usable }, '')).toBe('401 access.unauthenticated');
  expect(await asked({ configId: usable }, `${apiKey.slice(0, -1)}${apiKey.endsWith('A') ? 'Q' : 'A'}`)).toBe(
    '401 access.unauthenticated',
  );
  expect(await asked({ configId: usable }, 'aegis-agent-')).toBe('401 access.unauthenticated');
  expect((await server.as('anyone').raw('POST', '/api/agent/heartbeat')).json).toMatchObject({
    success: false,
    error: { code: 'access.unauthenticated', message: expect.stringContaining('X-Agent-API-Key') },
  });
  expect((await agent.raw('POST', '/api/agent/nonsense', '{}')).json).toMatchObject({
    success: false,
    error: { code: 'http.not_found' },
  });
  expect((await agent.raw('GET', '/api/agent/heartbeat')).json).toMatchObject({
    success: false,
    error: { code: 'http.method_not_allowed' },
  });
  // The key opens nothing else, and is no second credential.
  for (const path of ['/v1/commands/poll', '/api/v1/agents', '/v1/desired'])
    expect((await agent.raw('GET', path)).json).toMatchObject({ error: { code: 'access.unauthenticated' } });
  expect((await agent.raw('POST', '/api/agent/register', '{"name":"x"}')).json).toMatchObject({
    success: false,
    error: { code: 'access.unauthenticated' },
  });
  expect(
    (await web.raw('POST', '/api/agent/heartbeat', { headers: { 'x-agent-api-key': apiKey } })).json,
  ).toMatchObject({ error: { code: 'access.unauthenticated' } });
  for (const who of ['viewer', 'anyone'] as const)
    expect((await server.as(who).send(api.registerAgent, { body: { name: 'x' } })).status).toBe(
      who === 'viewer' ? 403 : 401,
    );
  expect(await sentence(register(server))).toMatch(/^409 nodes\.name_taken: The name 'Davids-MacBook' belongs/);
  // A run is its agent's alone.
  const { logId } = await agent.call(api.agentStart, { body: { configId: usable } });
  for (const [key, body, wanted] of [
    [other.apiKey, { logId, status: 'failed' }, '404 backups.unknown_run'],
    [apiKey, { logId: 'nonsense', status: 'failed' }, '404 backups.unknown_run'],
    [apiKey, { logId, status: 'running' }, '400 http.malformed'],
    [apiKey, { logId, status: 'completed' }, '503 backups.destination_failed'],
  ] as const) {
    const { status, json } = await withKey(server, key).raw('POST', '/api/agent/backup/complete', JSON.stringify(body));
    expect(`${status} ${(json as { error: { code: string } }).error.code}`).toBe(wanted);
  }
  expect(await server.as('viewer').call(showRun, { params: { id: logId } })).toMatchObject({ state: 'running' });
  const failed = { logId, status: 'failed' as const, errors: ['no disk', { path: '/a', message: 'EACCES' }, 7] };
  expect(await agent.call(api.agentComplete, { body: failed })).toEqual({ success: true });
  expect(await agent.call(api.agentComplete, { body: failed })).toEqual({ success: true });
  expect(await sentence(agent.call(api.agentComplete, { body: { logId, status: 'failed' } }))).toMatch(
    /^409 backups\.run_ended: /,
  );
  expect(await server.as('viewer').call(showRun, { params: { id: logId } })).toMatchObject({
    state: 'failed',
    trigger: 'agent',
    node_key: null,
    reason: { code: 'backups.agent_failed', message: 'no disk' },
    errors: [
      { path: '', code: 'agent', message: 'no disk' },
      { path: '/a', code: 'agent', message: 'EACCES' },
      { path: '', code: 'agent', message: '7' },
    ],
  });
});

test('calls of one agent are limited, and those of another are not', async () => {
  await using server = await startTestServer({
    clock: handClock(),
    config: { rate_limits_agent_burst: 3, rate_limits_agent_per_sec: 1 },
  });
  const [one, two] = [await register(server, 'one'), await register(server, 'two')];
  const statuses: number[] = [];
  for (let at = 0; at < 4; at++)
    statuses.push((await withKey(server, one.apiKey).send(api.agentHeartbeat, { body: {} })).status);
  expect(statuses).toEqual([200, 200, 200, 429]);
  const refused = await withKey(server, one.apiKey).send(api.agentConfigs);
  expect(refused.headers.get('retry-after')).toBe('1');
  expect(refused.json).toMatchObject({ success: false, error: { code: 'http.rate_limited' } });
  expect((await withKey(server, two.apiKey).send(api.agentConfigs)).json).toEqual({ success: true, configs: [] });
});
