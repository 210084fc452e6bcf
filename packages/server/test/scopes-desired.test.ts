import * as artifacts from '@aegis/protocol/artifacts/endpoints';
import * as backups from '@aegis/protocol/backups/endpoints';
import type { Endpoint } from '@aegis/protocol/endpoint';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { assign, registry } from './artifacts-support.ts';
import { create, end, goodEnd, start, starting } from './backups-support.ts';
import { refusal, STORAGES } from './commands-support.ts';
import { type ScopeStage, scopeStage } from './scope-stage.ts';
import { startTestServer, type TestServer } from './start-test-server.ts';
import type { TestClient } from './test-client.ts';

/** Artifacts and backups, for tokens with a scope. */

describe.each(STORAGES)('on %s', (storage) => {
  let server: TestServer;
  let stage: ScopeStage;
  let viewer: TestClient;
  let operator: TestClient;
  beforeAll(async () => {
    server = await startTestServer({ storage });
    stage = await scopeStage(server);
    viewer = await stage.scoped('viewer', 'site=fra');
    operator = await stage.scoped('operator', 'site=fra');
  });
  afterAll(() => server.close());
  const codeOf = <E extends Endpoint>(who: TestClient, ...of: Parameters<typeof who.call<E>>) =>
    refusal(who.call(...of));

  test('an artifact is assigned, counted and reported of within the scope alone', async () => {
    const { publish } = await registry(server);
    const one = await publish('firewall', '1.0.0');
    const params = { id: one.artifact_id };
    await assign(server, one.artifact_id, 'in-ber');
    await assign(server, one.artifact_id, 'in-fra');
    const countSeen = async (who: TestClient) => [
      (await who.call(artifacts.listArtifacts)).artifacts.map(({ assigned }) => assigned),
      (await who.call(artifacts.showArtifact, { params })).assigned,
      (await who.call(artifacts.artifactsForHost, { params: { host_id: 'in-fra' } })).artifacts.map(
        ({ assigned }) => assigned,
      ),
    ];
    expect(await countSeen(server.as('viewer'))).toEqual([[2], 2, [2]]);
    expect(await countSeen(viewer)).toEqual([[1], 1, [1]]);
    const nodesIn = async (query: object) =>
      (await viewer.call(artifacts.allStatus, { query })).items.map(({ node }) => node);
    for (const query of [{}, { name: 'firewall' }]) expect(await nodesIn(query)).toEqual(['in-fra']);
    for (const node of ['in-ber', stage.ber.uid]) expect(await nodesIn({ node })).toEqual([]);
    const { items } = await viewer.call(artifacts.artifactStatus, { params });
    expect(items.map(({ node }) => node)).toEqual(['in-fra']);
    for (const host_id of ['in-ber', stage.ber.uid, 'nobody']) {
      expect(await viewer.call(artifacts.artifactsForHost, { params: { host_id } })).toMatchObject({
        artifacts: [],
        total: 0,
        revision: 0,
      });
      const at = { artifact_id: one.artifact_id, host_id };
      const unknown = [422, 'artifacts.unknown_host'];
      const seen = [
        await codeOf(operator, artifacts.assignArtifact, { params: at, body: {} }),
        await codeOf(operator, artifacts.unassignArtifact, { params: at }),
        await codeOf(operator, artifacts.putHosts, {
          params: { artifact_id: one.artifact_id },
          body: { hosts: ['in-fra', host_id] },
        }),
      ].map(([status, code]) => [status === 404 ? 422 : status, code]);
      expect(seen).toEqual([unknown, unknown, unknown]);
      for (const endpoint of [artifacts.assignMany, artifacts.unassignMany])
        for (const dry_run of [true, false])
          expect(
            await codeOf(operator, endpoint, { body: { artifact: 'firewall', targets: [host_id], dry_run } }),
          ).toEqual([422, 'artifacts.unknown_target']);
      expect(await codeOf(viewer, artifacts.showKernelReport, { params: { id: host_id } })).toEqual([
        404,
        'nodes.unknown_node',
      ]);
    }
    // `all` are all of those within, and the whole set of hosts the whole set within.
    const off = await operator.call(artifacts.unassignMany, {
      body: { artifact: 'firewall', targets: ['all'], dry_run: false },
    });
    expect(off.assignments.map(({ host }) => host)).toEqual(['in-fra']);
    await operator.call(artifacts.assignMany, { body: { artifact: 'firewall', targets: ['all'], dry_run: false } });
    const put = await operator.call(artifacts.putHosts, {
      params: { artifact_id: one.artifact_id },
      body: { hosts: [] },
    });
    expect(put).toEqual({ added: [], removed: ['in-fra'], unchanged: [] });
    expect((await server.as('viewer').call(artifacts.showArtifact, { params })).assigned).toBe(1); // Berlin's stayed
    expect(await codeOf(operator, artifacts.deleteArtifact, { params })).toEqual([403, 'access.beyond_scope']);
  });

  test('configurations and runs of nodes beyond are not there, and nobody within reads their archives', async () => {
    const make = async (name: string, nodes: string[]) => (await create(server, { name, nodes })).config.config_id;
    const both = await make('both', ['in-fra', 'in-ber', 'site=ber or site=nowhere']);
    const other = await make('other', ['in-ber']);
    const run = async (node: ScopeStage['fra'], config: string) => {
      const grant = await start(node, starting(config));
      await end(node, grant.run_id, goodEnd(node, config, grant));
      return grant.run_id;
    };
    const mine = await run(stage.fra, both);
    const theirs = await run(stage.ber, both);
    const others = await run(stage.ber, other);
    const running = (await start(stage.ber, starting(both))).run_id;

    const { items } = await viewer.call(backups.listConfigs);
    expect(items.map(({ name, assigned, nodes, last_run }) => [name, assigned, nodes, last_run?.run_id])).toEqual([
      ['both', 1, ['in-fra'], mine],
    ]);
    expect(await viewer.call(backups.showConfig, { params: { id: 'both' } })).toEqual(items[0]);
    const nodesOf = await viewer.call(backups.configNodes, { params: { id: both } });
    expect(nodesOf.items.map(({ node }) => node)).toEqual(['in-fra']);
    const gone = [404, 'backups.unknown_config'];
    for (const id of [other, 'other']) {
      expect(await codeOf(viewer, backups.showConfig, { params: { id } })).toEqual(gone);
      expect(await codeOf(viewer, backups.configNodes, { params: { id } })).toEqual(gone);
      expect(await codeOf(viewer, backups.listRuns, { query: { config: id } })).toEqual(gone);
    }
    const runsSeen = async (query: object) =>
      (await viewer.call(backups.listRuns, { query })).items.map(({ run_id }) => run_id);
    for (const query of [{}, { config: 'both' }, { removed: 'true' }]) expect(await runsSeen(query)).toEqual([mine]);
    const noNode = [404, 'nodes.unknown_node'];
    for (const node of ['in-ber', stage.ber.uid]) {
      expect(await codeOf(viewer, backups.listRuns, { query: { node } })).toEqual(noNode);
      expect(await codeOf(viewer, backups.listConfigs, { query: { node } })).toEqual(noNode);
      expect(await codeOf(viewer, backups.nodeLog, { params: { id: node } })).toEqual(noNode);
      expect(await codeOf(viewer, backups.showRun, { params: { id: `latest:both@${node}` } })).toEqual(noNode);
    }
    expect((await viewer.call(backups.showRun, { params: { id: 'latest:both' } })).run_id).toBe(mine);
    const unknown = [404, 'backups.unknown_run'];
    for (const id of [theirs, others, running]) {
      const params = { id };
      expect(await codeOf(viewer, backups.showRun, { params })).toEqual(unknown);
      expect(await codeOf(viewer, backups.runLog, { params })).toEqual(unknown);
      expect(await codeOf(operator, backups.cancelRun, { params })).toEqual(unknown);
      expect(await codeOf(operator, backups.runLinks, { params })).toEqual(unknown);
      expect(await codeOf(operator, backups.verifyRun, { params })).toEqual(unknown);
      const grant = codeOf(operator, backups.grantRestore, { params, body: { node: 'in-fra', ttl_sec: 60 } });
      expect(await grant).toEqual(unknown);
    }
    for (const node of ['in-ber', stage.ber.uid]) {
      const grant = codeOf(operator, backups.grantRestore, { params: { id: mine }, body: { node, ttl_sec: 60 } });
      expect(await grant).toEqual(noNode);
    }
    expect((await server.as('viewer').call(backups.showRun, { params: { id: running } })).state).toBe('running');
    for (const call of [
      () => create({ as: () => operator }, { name: 'new', nodes: ['in-fra'] }),
      () => operator.call(backups.deleteConfig, { params: { id: both } }),
      () => operator.call(backups.assignConfig, { params: { id: both }, body: { add: ['in-fra'] } }),
      () => operator.call(backups.forgetRuns, { params: { id: both }, body: {} }),
    ])
      expect(await refusal(call())).toEqual([403, 'access.beyond_scope']);

    // It left: its runs are not there any more, and what was its own configuration neither.
    await stage.move(stage.fra, 'ams');
    expect(await runsSeen({})).toEqual([]);
    expect((await viewer.call(backups.listConfigs)).items).toEqual([]);
    expect(await codeOf(viewer, backups.showRun, { params: { id: mine } })).toEqual(unknown);
    await stage.move(stage.fra, 'fra');
  });
});
