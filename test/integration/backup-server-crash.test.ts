import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { deleteConfig, listRuns, putConfig, runLog, showConfig } from '@aegis/protocol/backups/endpoints';
import { endRun, postProgress, postRunLog, type RunGrant, startRun } from '@aegis/protocol/backups/node-endpoints';
import { nodeDesired } from '@aegis/protocol/nodes/endpoints';
import { expect, test } from 'vitest';
import { goodEnd, progress, spec, starting } from '../../packages/server/test/backups-support.ts';
import { faultsIn } from '../fleet/database.ts';
import { mortalServer } from '../fleet/mortal-server.ts';

/** The server dies at each commit of a configuration's life and of a run under it. The points enumerate themselves. Each life meets every
 *  third of them; under AEGIS_LONG each point has a life of its own. */

test('configured, run, changed and deleted: whenever the server dies, each step is done once', async () => {
  await using mortal = mortalServer();
  const { dataDir, folder, server, start, surely } = mortal;
  const dev = mortal.client();
  await start();
  const node = await mortal.enrol('n');

  const ids = new Map<string, string>();
  const life = async (name: string): Promise<void> => {
    const put = (tags: string[]) =>
      dev.call(putConfig, { params: { id: name }, body: { spec: spec({ name, nodes: ['n'], tags }), probe: false } });
    const id = (await surely('configured', () => put(['one'])))?.config.config_id ?? '';
    const request = starting(id, { run_id: randomUUID() });
    const grant = (await surely('begun', () => node.call(startRun, { body: request }))) as RunGrant;
    const params = { id: grant.run_id };
    await surely('told of', () => node.call(postProgress, { params, body: progress() }));
    const lines = [{ at: '2026-11-21T00:00:01.000Z', level: 'info' as const, message: 'scanning' }];
    await surely('logged', () => node.call(postRunLog, { params, body: { lines } }));
    await surely('begun again', () => node.call(startRun, { body: { ...request, attempt: 2 } }));
    const end = goodEnd(node, id, { ...grant, attempt: 2, prefix: grant.prefix.replace(/1\/$/, '2/') });
    await surely('ended', () => node.call(endRun, { params, body: end }));
    await surely('changed', () => put(['two']));
    const shown = await surely('shown', () => dev.call(showConfig, { params: { id } }));
    expect(shown?.revision).toBe(2);
    await surely('deleted', () => dev.call(deleteConfig, { params: { id: name } }), 'backups.unknown_config');
    ids.set(name, id);
  };

  await server.kill9();
  const trace = join(folder, 'trace');
  await start({ AEGIS_CRASH_TRACE: trace });
  await life('traced');
  const points = readFileSync(trace, 'utf8')
    .trim()
    .split('\n')
    .filter((point) => /^server\.(before|after)-commit\.backups\./.test(point));
  expect(points).toEqual(
    expect.arrayContaining(
      ['config', 'start', 'progress', 'run-log', 'end', 'delete-config'].flatMap((label) => [
        `server.before-commit.backups.${label}#1`,
        `server.after-commit.backups.${label}#1`,
      ]),
    ),
  );

  // A death before a commit is one before anything happened: two of them tell that the question is asked again.
  const before = /before-commit\.backups\.(start|end)#1$/;
  const chosen = points.filter((point) => point.includes('.after-commit.') || before.test(point));
  const missed = await mortal.dying(chosen, process.env.AEGIS_LONG ? chosen.length : 3, life, async (name, deaths) => {
    const id = ids.get(name) ?? '';
    const { directives } = await node.call(nodeDesired);
    const wishes = directives.map(({ payload }) => JSON.parse(Buffer.from(payload, 'base64').toString()) as object);
    // Three changes, however often they were asked for.
    expect([deaths, wishes.find((wish) => 'object_id' in wish && wish.object_id === id)]).toMatchObject([
      deaths,
      { generation: 3, body: { state: 'absent' } },
    ]);
    const { items } = await dev.call(listRuns, { query: { config: id } });
    expect([deaths, items.map(({ state, attempt }) => [state, attempt])]).toEqual([deaths, [['completed', 2]]]);
    const log = await dev.call(runLog, { params: { id: items[0]?.run_id ?? '' } });
    expect([deaths, log.items.length]).toEqual([deaths, 1]);
  });
  expect(missed).toEqual([]);
  await server.stop();
  expect(faultsIn(dataDir)).toEqual([]);
}, 240_000);
