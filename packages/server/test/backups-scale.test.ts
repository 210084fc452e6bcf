import { configNodes } from '@aegis/protocol/backups/endpoints';
import { postProgress } from '@aegis/protocol/backups/node-endpoints';
import { pollCommands } from '@aegis/protocol/commands/endpoints';
import type { KyselyPlugin } from 'kysely';
import { describe, expect, test } from 'vitest';
import { assignmentChanges } from '../src/backups/assignments.ts';
import { assignmentsRepository } from '../src/backups/assignments-repository.ts';
import { create, heldBy, progress, put, start, starting } from './backups-support.ts';
import { STORAGES } from './commands-support.ts';
import { startTestServer, type TestServer } from './start-test-server.ts';

/** Many nodes: what a change of all of them costs, and that each of them hears of it. */

const MANY = 1000;
const manyNodes = async (server: TestServer): Promise<{ uid: string; name: string }[]> => {
  const template = await server.enrol('template');
  const made = Array.from({ length: MANY }, (_, at) => ({
    uid: `01890000-0000-7000-8000-${String(at).padStart(12, '0')}`,
    name: `many-${at}`,
  }));
  await server.running.storage.write('test', async (tx) => {
    const row = await tx.selectFrom('nodes').selectAll().where('uid', '=', template.uid).executeTakeFirstOrThrow();
    for (let at = 0; at < MANY; at += 50)
      await tx
        .insertInto('nodes')
        .values(made.slice(at, at + 50).map((one) => ({ ...row, ...one, key_id: one.name })))
        .execute();
  });
  return made;
};

describe.each(STORAGES)('%s', (storage) => {
  test('a thousand nodes in one change cost few statements, and a poll that waits is woken', async () => {
    await using server = await startTestServer({ storage });
    const hosts = await manyNodes(server);
    const node = await server.enrol('web-1');
    const waiting = node.call(pollCommands, { query: { wait: 30, desired: 0 } });
    const made = await create(server, { nodes: ['all'] });
    expect(made.nodes.added).toHaveLength(MANY + 2);
    expect((await waiting).desired).toBe(1);
    const changed = await put(server, 'home', { nodes: ['all'], tags: ['b'] });
    expect([changed.nodes.unchanged, changed.config.assigned]).toEqual([MANY + 2, MANY + 2]);
    expect(await heldBy(server, node)).toEqual({ home: 'present 2' });

    let statements = 0;
    const counting: KyselyPlugin = {
      transformQuery: ({ node: query }) => query,
      transformResult: async ({ result }) => {
        statements++;
        return result;
      },
    };
    const { storage: database, artifacts, backups } = server.running;
    const changes = assignmentChanges({
      assignments: assignmentsRepository(database),
      desired: artifacts.desired,
      nodes: backups.parts.nodes,
      newId: backups.parts.newId,
      maxPerNode: 100,
    });
    const outcome = await database.write('test', (tx) =>
      changes.apply(
        tx.withPlugin(counting) as typeof tx,
        { configId: made.config.config_id, anew: true, bytes: 1, hosts, by: 'test', now: 1 },
        'refuse',
      ),
    );
    expect([outcome.unchanged, outcome.removed.length, outcome.revisions.length]).toEqual([MANY, 2, MANY + 2]);
    expect(statements).toBeLessThanOrEqual(12);
    const page = await server.as('viewer').call(configNodes, { params: { id: 'home' }, query: { limit: 1000 } });
    expect(page.items).toHaveLength(MANY);
  });

  test('progress of many runs at once: each is told of, none is mixed up', async () => {
    await using server = await startTestServer({ storage });
    const nodes = await Promise.all(Array.from({ length: 20 }, (_, at) => server.enrol(`n-${at}`)));
    const { config } = await create(server, { nodes: ['all'] });
    const grants = await Promise.all(nodes.map((node) => start(node, starting(config.config_id))));
    await Promise.all(
      Array.from({ length: 10 }, (_, step) =>
        nodes.map((node, at) =>
          node.call(postProgress, {
            params: { id: grants[at]?.run_id ?? '' },
            body: progress({ files: at * 100 + step, at: new Date(step * 1000).toISOString() }),
          }),
        ),
      ).flat(),
    );
    const rows = await server.running.storage.read.selectFrom('backups_runs').select(['id', 'progress']).execute();
    const files = new Map(
      rows.map(({ id, progress: text }) => [id, (JSON.parse(text ?? '{}') as { files: number }).files]),
    );
    expect(grants.map(({ run_id }) => files.get(run_id))).toEqual(nodes.map((_, at) => at * 100 + 9));
  });
});
