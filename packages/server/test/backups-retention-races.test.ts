import { showRun } from '@aegis/protocol/backups/endpoints';
import { describe, expect, test } from 'vitest';
import { configsRepository } from '../src/backups/configs-repository.ts';
import { removalsRepository } from '../src/backups/retention/removals-repository.ts';
import { retentionService } from '../src/backups/retention/service.ts';
import { oneAtATime } from '../src/platform/one-at-a-time.ts';
import { create, end, failedEnd, goodEnd, put, start, starting } from './backups-support.ts';
import { STORAGES } from './commands-support.ts';
import { type EnrolledNode, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** What changes between the decision which runs go and their going. */

const HOUR = 3_600_000;
const nodes = ['web-1'];

const finish = async (node: EnrolledNode, configId: string): Promise<string> => {
  const grant = await start(node, starting(configId));
  await end(node, grant.run_id, goodEnd(node, configId, grant));
  return grant.run_id;
};
/** Retention as the server has it, with something that happens after a history was read. */
const retentionWith = (server: TestServer, clock: { now(): number }, meanwhile: () => Promise<unknown>) => {
  const { parts, configs } = server.running.backups;
  const removals = removalsRepository(server.running.storage);
  return retentionService({
    ...parts,
    configs: configsRepository(server.running.storage),
    removals: {
      ...removals,
      history: async (configId, nodeUid) => {
        const rows = await removals.history(configId, nodeUid);
        await meanwhile();
        return rows;
      },
    },
    remove: async () => true,
    findConfig: configs.find,
    inTurn: oneAtATime(),
    clock,
  });
};

describe.each(STORAGES)('%s', (storage) => {
  const prepared = async () => {
    const clock = handClock();
    const server = await startTestServer({ storage, clock });
    const node = await server.enrol('web-1');
    const { config } = await create(server, { nodes });
    const runs: string[] = [];
    for (let at = 0; at < 3; at++) {
      runs.push(await finish(node, config.config_id));
      clock.advance(HOUR);
    }
    await put(server, config.config_id, { nodes, retention: { keep_last: 1 } });
    const left = async () => {
      const there: string[] = [];
      for (const id of runs)
        if ((await server.as('viewer').call(showRun, { params: { id } })).removed_at === null) there.push(id);
      return there;
    };
    return { server, clock, id: config.config_id, runs, left };
  };

  test('a policy that keeps more: what the former one would have removed stays', async () => {
    const { server, clock, id, runs, left } = await prepared();
    await using _ = server;
    const wider = () => put(server, id, { nodes, retention: { keep_last: 3 } });
    const retention = retentionWith(server, clock, wider);
    expect((await retention.forget('test', id, { dry_run: false })).decisions.filter(({ removed }) => removed)).toEqual(
      [],
    );
    expect(await left()).toEqual(runs);
    await put(server, id, { nodes, retention: { keep_last: 1 } });
    await retentionWith(server, clock, wider).turn();
    expect(await left()).toEqual(runs);
  });

  test('the good one that was to stay is found damaged: the one before it stays', async () => {
    const { server, clock, id, runs, left } = await prepared();
    await using _ = server;
    const damaged = JSON.stringify({ at: new Date(clock.now()).toISOString(), ok: false, message: 'no' });
    await retentionWith(server, clock, () =>
      server.running.storage.write('test', async (tx) => {
        await tx
          .updateTable('backups_runs')
          .set({ verified: damaged })
          .where('id', '=', runs[2] ?? '')
          .execute();
      }),
    )
      .forget('test', id, { dry_run: false })
      .catch(() => undefined);
    expect(await left()).toContain(runs[1]);
  });

  test('a record gives way to a new run only once its objects are gone', async () => {
    const clock = handClock();
    const config = { 'backups.max_runs_per_node': 10, 'nodes.token_ttl_sec': 30 * 86_400 };
    await using server = await startTestServer({ storage, clock, config });
    const node = await server.enrol('web-1');
    const destination = { kind: 's3', bucket: 'away', endpoint: 'http://127.0.0.1:1', path_style: true };
    const { config_id: id } = (await create(server, { nodes, destination })).config;
    const failed: string[] = [];
    for (let at = 0; at < 10; at++) {
      const { run_id } = await start(node, starting(id));
      await end(node, run_id, failedEnd());
      failed.push(run_id);
      clock.advance(1000);
    }
    const [first = '', second = ''] = failed;
    const now = clock.now();
    const removal = { node_uid: node.uid, remover: 'server' as const, decided_at: now, next_at: now, tries: 0 };
    await server.running.storage.write('test', async (tx) => {
      await tx.updateTable('backups_runs').set({ removed_at: now }).where('id', '=', first).execute();
      const row = { ...removal, run_id: first, told_in: null, done_at: null, reason: '', error: null };
      await tx.insertInto('backups_removals').values(row).execute();
    });
    clock.advance(8 * 24 * HOUR);
    await start(node, starting(id));
    const left = await server.running.storage.read.selectFrom('backups_runs').select('id').execute();
    expect(left.map(({ id: one }) => one)).toContain(first);
    expect(left.map(({ id: one }) => one)).not.toContain(second);
    expect(await server.running.storage.read.selectFrom('backups_removals').select('run_id').execute()).toEqual([
      { run_id: first },
    ]);
  });
});
