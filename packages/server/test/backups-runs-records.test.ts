import { deleteConfig, listRuns, runLog } from '@aegis/protocol/backups/endpoints';
import { postRunLog } from '@aegis/protocol/backups/node-endpoints';
import { apiRetireNode } from '@aegis/protocol/nodes/endpoints';
import { describe, expect, test } from 'vitest';
import { renewToken, sentence } from './artifacts-support.ts';
import { show, stage } from './backups-runs-support.ts';
import { create, end, failedEnd, goodEnd, spec, start, starting } from './backups-support.ts';
import { STORAGES } from './commands-support.ts';
import { handClock, startTestServer } from './start-test-server.ts';

/** What is kept of runs, and told of them: lists, logs, records of what was refused, bodies. */

describe.each(STORAGES)('%s', (storage) => {
  test('lists by configuration, node and state, page by page; latest names the newest that can be restored', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const { node, other, id } = await stage(server);
    await create(server, { name: 'etc', nodes: ['web-1'] });
    const made: string[] = [];
    for (const one of [node, node, other, node]) {
      clock.advance(1000);
      const grant = await start(one, starting(id));
      made.unshift(grant.run_id);
      await end(one, grant.run_id, made.length === 4 ? failedEnd() : goodEnd(one, id, grant));
    }
    const list = async (query: Record<string, unknown>) => {
      const found: string[] = [];
      let cursor: string | undefined;
      do {
        const page = await server.as('viewer').call(listRuns, { query: { limit: 2, cursor, ...query } });
        found.push(...page.items.map(({ run_id }) => run_id));
        cursor = page.next_cursor ?? undefined;
      } while (cursor !== undefined);
      return found;
    };
    expect(await list({})).toEqual(made);
    expect(await list({ config: 'home', node: 'web-2' })).toEqual([made[1]]);
    expect(await list({ config: 'etc' })).toEqual([]);
    expect(await list({ state: 'failed' })).toEqual([made[0]]);
    await server.running.storage.write('test', async (tx) => {
      await tx
        .updateTable('backups_runs')
        .set({ removed_at: 1 })
        .where('id', '=', made[3] ?? '')
        .execute();
    });
    expect([(await list({})).length, (await list({ removed: 'true' })).length]).toEqual([3, 4]);
    const latest = async (text: string) => (await show(server, `latest:${text}`)).run_id;
    expect([await latest('home'), await latest('home@web-1'), await latest(`${id}@${other.uid}`)]).toEqual([
      made[1],
      made[2],
      made[1],
    ]);
    expect(await sentence(show(server, 'latest:etc@web-1'))).toBe(
      "404 backups.unknown_run: 'etc' has no backup of 'web-1' that can be restored yet. See 'aegis backups runs --config etc'.",
    );
    expect(await sentence(show(server, 'latest:none'))).toBe(
      "404 backups.unknown_config: No backup configuration 'none'. See 'aegis backups configs list'.",
    );
    expect(await sentence(show(server, 'latest:home@none'))).toBe(
      "404 nodes.unknown_node: No node 'none'. See 'aegis nodes list'.",
    );
    expect(await sentence(server.as('viewer').call(listRuns, { query: { cursor: 'x' } }))).toBe(
      "400 http.bad_cursor: This cursor is not one of ours. Take 'next_cursor' of the page before, or none.",
    );
    // A deleted configuration's runs are still found by its name, and a retired node's by that.
    await server.as('admin').call(apiRetireNode, { params: { id: 'web-2' } });
    expect([await latest('home@web-2'), await list({ node: 'web-2' })]).toEqual([made[1], [made[1]]]);
    await server.as('operator').call(deleteConfig, { params: { id: 'home' } });
    expect(await list({ config: 'home' })).toHaveLength(3);
  });

  test('logs and records are bounded, and say so', async () => {
    const clock = handClock();
    const config = { 'backups.log_lines_per_run': 10, 'backups.max_runs_per_node': 10 };
    await using server = await startTestServer({ storage, clock, config });
    const { node, id } = await stage(server);
    const first = await start(node, starting(id));
    const lines = Array.from({ length: 12 }, (_, at) => ({
      at: new Date(at).toISOString(),
      level: 'info' as const,
      message: `line ${at}`,
    }));
    const log = () => node.call(postRunLog, { params: { id: first.run_id }, body: { lines } });
    expect([await log(), await log()]).toEqual([{ stored: 10 }, { stored: 0 }]);
    const told = (await server.as('viewer').call(runLog, { params: { id: first.run_id } })).items;
    expect([told.length, told.at(-1)?.message]).toEqual([
      11,
      'The log of a run takes 10 lines (backups.log_lines_per_run): what came after these is not here.',
    ]);
    await end(node, first.run_id, failedEnd());
    for (let at = 1; at < 10; at++) {
      const grant = await start(node, starting(id));
      await end(node, grant.run_id, goodEnd(node, id, grant));
    }
    expect(await sentence(start(node, starting(id)))).toBe(
      "413 backups.limit: 'home' has 10 runs of this node, as many as are kept (backups.max_runs_per_node). Give it a retention, apply it ('aegis backups forget home'), or raise that setting.",
    );
    clock.advance(8 * 86_400_000);
    const back = { ...node, ...server.withToken((await renewToken(server, node, clock.now())).token) };
    await start(back, starting(id));
    expect(await sentence(show(server, first.run_id))).toContain('404 backups.unknown_run');
    const { read } = server.running.storage;
    expect(await read.selectFrom('backups_log').selectAll().execute()).toEqual([]);
  });
});

test('the body of a configuration is what the schema says of it, in whichever order it was sent', () => {
  expect(JSON.stringify(spec({ tags: ['a'] }))).toBe(JSON.stringify(spec({ ...spec({ tags: ['a'] }) })));
});
