import { assignConfig, configNodes, deleteConfig, showConfig } from '@aegis/protocol/backups/endpoints';
import { putConfigReports } from '@aegis/protocol/backups/node-endpoints';
import { pollCommands } from '@aegis/protocol/commands/endpoints';
import { apiPatchNode, apiRetireNode } from '@aegis/protocol/nodes/endpoints';
import { describe, expect, test } from 'vitest';
import { forHost, registry, renewToken, sentence } from './artifacts-support.ts';
import { create, desiredOf, heldBy, put, spec } from './backups-support.ts';
import { STORAGES, until } from './commands-support.ts';
import { type EnrolledNode, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** Desired state of backups: who carries out what, as generations, directives and revisions. */

const DAY_MS = 86_400_000;
const report = (
  node: EnrolledNode,
  configs: {
    config_id: string;
    generation: number;
    next_run_at?: string;
    refusal?: { code: string; message: string };
  }[],
) =>
  node.call(putConfigReports, {
    body: { configs: configs.map((one) => ({ next_run_at: null, refusal: null, ...one })) },
  });
const nodesOf = async (server: TestServer, id: string) =>
  (await server.as('viewer').call(configNodes, { params: { id } })).items;
const assign = (server: TestServer, id: string, body: { add?: string[]; remove?: string[]; dry_run?: boolean }) =>
  server.as('operator').call(assignConfig, { params: { id }, body });
const label = (server: TestServer, node: string, labels: Record<string, string>) =>
  server.as('operator').call(apiPatchNode, { params: { id: node }, body: { labels } });
const revisionOf = async (node: EnrolledNode) =>
  (await node.call(pollCommands, { query: { wait: 0, desired: 0 } })).desired;

describe.each(STORAGES)('%s', (storage) => {
  test('an assignment’s whole life: assigned, unchanged, changed, taken off, confirmed, assigned anew', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const node = await server.enrol('web-1');
    expect([await desiredOf(server, node), await revisionOf(node)]).toEqual([{ revision: 0, directives: [] }, 0]);
    const { config } = await create(server, { nodes: ['web-1'], tags: ['a'] });
    const id = config.config_id;
    const { revision, directives } = await desiredOf(server, node);
    const {
      name: _,
      nodes: _n,
      retention: _r,
      alerts: _a,
      description: _d,
      execution_mode: _e,
      paused: _p,
      ...work
    } = spec({ tags: ['a'] });
    const directive = {
      fleet: server.running.fleet,
      id: expect.any(String),
      kind: 'backups.config',
      targets: { node_keys: [node.keys.keyId] },
      issued_at: new Date(clock.now()).toISOString(),
      expires_at: new Date(clock.now() + 7 * DAY_MS).toISOString(),
      max_attempts: 1,
      object_id: id,
      generation: 1,
      body: { state: 'present', config_id: id, name: 'home', paused: false, work },
    };
    expect([revision, directives, await revisionOf(node)]).toEqual([1, [directive], 1]);

    // What nodes are not told of changes no generation.
    await put(server, 'home', { nodes: ['web-1'], tags: ['a'], description: 'x', retention: { keep_last: 3 } });
    expect(await desiredOf(server, node)).toEqual({ revision: 1, directives });
    clock.advance(DAY_MS);
    const renewed = { ...node, ...server.withToken((await renewToken(server, node, clock.now())).token) };
    const reissued = await desiredOf(server, renewed);
    expect(reissued).toEqual({
      revision: 1,
      directives: [
        {
          ...directive,
          issued_at: new Date(clock.now()).toISOString(),
          expires_at: new Date(clock.now() + 7 * DAY_MS).toISOString(),
        },
      ],
    });
    expect(reissued.directives[0]?.id).not.toBe(directives[0]?.id);
    expect(await desiredOf(server, renewed)).toEqual(reissued);

    await put(server, 'home', { nodes: ['web-1'], tags: ['b'] });
    expect([await heldBy(server, renewed), await revisionOf(renewed)]).toEqual([{ home: 'present 2' }, 2]);
    expect(await report(renewed, [{ config_id: id, generation: 2, next_run_at: '2027-01-01T00:00:00.000Z' }])).toEqual({
      stored: true,
    });
    expect(await nodesOf(server, 'home')).toEqual([
      {
        node: 'web-1',
        node_uid: node.uid,
        online: true,
        generation: 2,
        taken: true,
        next_run_at: '2027-01-01T00:00:00.000Z',
        last_run: null,
        last_good: null,
        overdue: false,
        refusal: null,
      },
    ]);
    const off = await assign(server, 'home', { remove: ['web-1'] });
    expect(off.nodes).toEqual({ added: [], removed: ['web-1'], unchanged: 0 });
    expect([await heldBy(server, renewed), await nodesOf(server, 'home')]).toEqual([{ [id]: 'absent 3' }, []]);
    await report(renewed, [{ config_id: id, generation: 2 }]);
    expect(await heldBy(server, renewed)).toEqual({ [id]: 'absent 3' });
    await report(renewed, [{ config_id: id, generation: 3 }]);
    expect([await heldBy(server, renewed), await revisionOf(renewed)]).toEqual([{}, 3]);
    await assign(server, 'home', { add: ['web-1'] });
    expect(await heldBy(server, renewed)).toEqual({ home: 'present 4' });
  });

  test('selectors: nodes come and go as they enrol, change their labels and retire; keyless ones by name alone', async () => {
    await using server = await startTestServer({ storage });
    const first = await server.enrol('web-1', { labels: { env: 'prod' } });
    const made = await create(server, { nodes: ['label.env=prod or site=fra'] });
    expect(made.nodes).toEqual({ added: ['web-1'], removed: [], unchanged: 0 });
    const second = await server.enrol('web-2', { site: 'fra' });
    await until('the new node has it', async () => (await nodesOf(server, 'home')).length === 2);
    expect([await heldBy(server, first), await heldBy(server, second)]).toEqual([
      { home: 'present 1' },
      { home: 'present 1' },
    ]);
    await label(server, 'web-1', { env: 'test' });
    await until('it is taken off', async () => (await nodesOf(server, 'home')).length === 1);
    expect(Object.values(await heldBy(server, first))).toEqual(['absent 2']);
    await label(server, 'web-1', { env: 'prod' });
    await until('it has it again', async () => (await nodesOf(server, 'home')).length === 2);
    expect(await heldBy(server, first)).toEqual({ home: 'present 3' });

    await server.keyless('poller');
    const all = await put(server, 'home', { nodes: ['all'] });
    expect(all.nodes).toEqual({ added: [], removed: [], unchanged: 2 });
    const named = await put(server, 'home', { nodes: ['all', 'poller'] });
    expect(named.nodes).toEqual({ added: ['poller'], removed: [], unchanged: 2 });

    await server.as('admin').call(apiRetireNode, { params: { id: 'web-2' } });
    expect((await nodesOf(server, 'home')).map(({ node }) => node)).toEqual(['poller', 'web-1']);
    const { read } = server.running.storage;
    const left = await read
      .selectFrom('backups_assignments')
      .select('node_uid')
      .where('node_uid', '=', second.uid)
      .execute();
    expect(left).toEqual([]);
    // A name that the configuration had before may stay there after its node is gone.
    await put(server, 'home', { nodes: ['web-1', 'poller'] });
    await server.as('admin').call(apiRetireNode, { params: { id: 'poller' } });
    const after = await put(server, 'home', { nodes: ['poller', 'web-1'], description: 'later' });
    expect(after.nodes).toEqual({ added: [], removed: [], unchanged: 1 });
  });

  test('the loop repairs what was left undone, and nothing else', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('web-1');
    const other = await server.enrol('web-2');
    await create(server, { nodes: ['label.env=prod'] });
    const { storage: database, backups } = server.running;
    await database.write('test', async (tx) => {
      await tx.updateTable('nodes').set({ labels: '{"env":"prod"}' }).where('uid', '=', node.uid).execute();
    });
    await backups.reconciler.turn();
    expect([await heldBy(server, node), await heldBy(server, other)]).toEqual([{ home: 'present 1' }, {}]);
    await backups.reconciler.turn();
    expect([await revisionOf(node), await revisionOf(other)]).toEqual([1, 0]);
    await server.restart();
    expect(await heldBy(server, node)).toEqual({ home: 'present 1' });
  });

  test('a node that holds a newer generation, or an older state, than the server knows is told anew', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('web-1');
    const { config } = await create(server, { nodes: ['web-1'] });
    const id = config.config_id;
    const stale = { code: 'backups.stale_generation', message: 'I hold 7.' };
    await report(node, [{ config_id: id, generation: 1, refusal: stale }]);
    expect(await heldBy(server, node)).toEqual({ home: 'present 2' });
    await report(node, [{ config_id: id, generation: 7 }]);
    expect(await heldBy(server, node)).toEqual({ home: 'present 8' });
    await report(node, [{ config_id: id, generation: 7, refusal: stale }]); // of before
    expect(await heldBy(server, node)).toEqual({ home: 'present 8' });
    await report(node, [{ config_id: id, generation: Number.MAX_SAFE_INTEGER }]);
    expect(await heldBy(server, node)).toEqual({ home: 'present 1000009' });
    await server.as('operator').call(deleteConfig, { params: { id } });
    await report(node, [{ config_id: id, generation: 1_000_010 }]);
    expect(await heldBy(server, node)).toEqual({});
    await report(node, [{ config_id: id, generation: 8 }]); // restored from a copy of before
    expect(await heldBy(server, node)).toEqual({ [id]: 'absent 1000011' });
    // What it never had is nothing that could be stored.
    const unknown = '01890000-0000-7000-8000-000000000001';
    expect(await report(node, [{ config_id: unknown, generation: 1 }])).toEqual({ stored: false });
    await create(server, { name: 'broken', nodes: ['web-1'] });
    const broken = (await server.as('viewer').call(showConfig, { params: { id: 'broken' } })).config_id;
    const refusal = { code: 'backups.no_source', message: 'There is no \0 /home.' };
    await report(node, [{ config_id: broken, generation: 1, refusal }]);
    expect(await nodesOf(server, 'broken')).toMatchObject([
      { taken: false, refusal: { code: 'backups.no_source', message: 'There is no \uFFFD /home.' } },
    ]);
  });

  test('a node has so many and no more; a selector that reaches a full one leaves it out', async () => {
    await using server = await startTestServer({ storage, config: { 'backups.max_configs_per_node': 2 } });
    const full = await server.enrol('full');
    await create(server, { name: 'one', nodes: ['full'] });
    await create(server, { name: 'two', nodes: ['full'] });
    expect(await sentence(create(server, { name: 'three', nodes: ['all'] }))).toBe(
      "413 backups.limit: 'full' has as many backup configurations as one node may (2, backups.max_configs_per_node; 3 MiB together). Take one off it, or raise that setting.",
    );
    await create(server, { name: 'three', nodes: ['label.env=prod'] });
    const revision = await revisionOf(full);
    await label(server, 'full', { env: 'prod' });
    const free = await server.enrol('free', { labels: { env: 'prod' } });
    await until('the other has it', async () => (await nodesOf(server, 'three')).length === 1);
    await server.running.backups.reconciler.turn();
    expect([await heldBy(server, free), await revisionOf(full)]).toEqual([{ three: 'present 1' }, revision]);
    expect(Object.keys(await heldBy(server, full))).toEqual(['one', 'two']);
    // Bytes count as well: what one node has together fits into one answer.
    const large = { exclude: { patterns: Array.from({ length: 120 }, (_, at) => `${at}${'x'.repeat(4000)}`) } };
    await put(server, 'one', { name: 'one', nodes: ['full'], ...large });
  });

  test('artifacts and backups of a node come in one answer and under one revision', async () => {
    await using server = await startTestServer({ storage });
    const at = await registry(server);
    const node = await server.enrol('web-1');
    const { artifact_id } = await at.publish('block-icmp', '1.0.0');
    await server.as('operator').raw('POST', `/assign/${artifact_id}/web-1`);
    await create(server, { nodes: ['web-1'] });
    const { revision, directives } = await desiredOf(server, node);
    expect([revision, directives.map(({ kind }) => kind)]).toEqual([2, ['artifacts.assign', 'backups.config']]);
    const older = await forHost(node); // of a daemon from before backups
    expect([older.revision, older.directives.length]).toEqual([2, 1]);
    await server.as('admin').call(apiRetireNode, { params: { id: 'web-1' } });
    const { read } = server.running.storage;
    expect(await read.selectFrom('artifacts_desired').selectAll().execute()).toEqual([]);
  });
});
