import { deleteConfig, listConfigs, listRuns, nodeLog, runLog, showRun } from '@aegis/protocol/backups/endpoints';
import { postRunLog, putConfigReports } from '@aegis/protocol/backups/node-endpoints';
import { describe, expect, test } from 'vitest';
import { renewToken, sentence } from './artifacts-support.ts';
import { create, end, failedEnd, goodEnd, put, start, starting } from './backups-support.ts';
import { STORAGES } from './commands-support.ts';
import { handClock, startTestServer } from './start-test-server.ts';

/** How much of a node's and an operator's text is kept, for how long, and how much of it one answer holds. */

const DAY_MS = 86_400_000;
const MIB = 1024 * 1024;

describe.each(STORAGES)('%s', (storage) => {
  test('pages are cut by their text, and go on where they were cut', async () => {
    await using server = await startTestServer({ storage });
    const patterns = Array.from({ length: 110 }, (_, at) => `${at}${'x'.repeat(4000)}`);
    for (let at = 0; at < 20; at++) await create(server, { name: `large-${at}`, exclude: { patterns } });
    const viewer = server.as('viewer');
    const seen: string[] = [];
    const pages: number[] = [];
    let cursor: string | undefined;
    do {
      const { text } = await viewer.raw(
        'GET',
        `/api/v1/backups/configs?limit=1000${cursor ? `&cursor=${cursor}` : ''}`,
      );
      const page = JSON.parse(text) as { items: { name: string }[]; next_cursor: string | null };
      expect(text.length).toBeLessThan(9 * MIB);
      seen.push(...page.items.map(({ name }) => name));
      pages.push(page.items.length);
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined);
    expect([seen.length, new Set(seen).size, pages.length]).toEqual([20, 20, 2]);
    expect((await viewer.call(listConfigs, { query: { limit: 20 } })).next_cursor).not.toBe(null);
  });

  test('what a node says of its errors is kept as far as it fits; their number is kept always', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('web-1');
    const { config } = await create(server, { nodes: ['web-1'] });
    const grant = await start(node, starting(config.config_id));
    const errors = Array.from({ length: 100 }, (_, at) => ({
      path: `/home/${at}/${'x'.repeat(1000)}`,
      code: 'EACCES',
      message: 'Permission denied',
    }));
    const totals = { files: 3, directories: 1, others: 0, bytes: 300, errors: 100 };
    const good = goodEnd(node, config.config_id, grant, { totals }, { totals, errors });
    await end(node, grant.run_id, good);
    const run = await server.as('viewer').call(showRun, { params: { id: grant.run_id } });
    expect([run.errors.length, run.errors, run.totals?.errors]).toEqual([30, errors.slice(0, 30), 100]);
    const padded = await start(node, starting(config.config_id));
    const long = goodEnd(node, config.config_id, padded);
    if (long.statement) long.statement.payload = long.statement.payload.padEnd(20_000, ' ');
    expect(await sentence(end(node, padded.run_id, long))).toBe(
      '422 backups.bad_statement: The statement is longer than 16 KiB. The run is not complete: begin another attempt.',
    );
  });

  test('log lines go after their time, deleted configurations once nothing names them, and no sooner', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock, config: { 'backups.log_days': 40 } });
    const enrolled = await server.enrol('web-1');
    const { config } = await create(server, { nodes: ['web-1'] });
    const other = await create(server, { name: 'etc', nodes: ['web-1'] });
    const moved = await create(server, { name: 'moved' });
    await put(server, 'moved', { name: 'moved', destination: { kind: 'file', path: '/elsewhere' } });
    const { run_id } = await start(enrolled, starting(config.config_id));
    const line = (message: string) => ({ at: '2026-11-21T00:00:01.000Z', level: 'info' as const, message });
    const { read } = server.running.storage;
    const { lines, sweep } = server.running.backups;
    const log = (message: string) =>
      lines.addToNode(enrolled.uid, { at: new Date(clock.now()).toISOString(), level: 'info', message });
    await enrolled.call(postRunLog, { params: { id: run_id }, body: { lines: [line('first')] } });
    await log('of itself');
    await end(enrolled, run_id, failedEnd());
    for (const id of ['home', 'etc']) await server.as('operator').call(deleteConfig, { params: { id } });
    const counts = async () => [
      (await read.selectFrom('backups_log').select('id').execute()).length,
      (await read.selectFrom('backups_configs').select('id').execute()).length,
      (await read.selectFrom('backups_destinations').select('id').execute()).length,
    ];
    await sweep.turn();
    // Of 'etc' nothing but its name was left; of 'moved' the place that no run ever went to.
    expect(await counts()).toEqual([2, 3, 2]);
    clock.advance(31 * DAY_MS);
    await sweep.turn();
    expect(await counts()).toEqual([2, 3, 2]); // a node has not said yet that it dropped them
    const node = { ...enrolled, ...server.withToken((await renewToken(server, enrolled, clock.now())).token) };
    const held = (config_id: string) => ({ config_id, generation: 2, next_run_at: null, refusal: null });
    await node.call(putConfigReports, {
      body: { configs: [held(config.config_id), held(other.config.config_id)] },
    });
    await log('later');
    await sweep.turn();
    expect(await counts()).toEqual([3, 2, 2]); // 'home' has a run
    const viewer = server.as('viewer');
    expect((await viewer.call(listRuns, { query: { config: 'home' } })).items.map((run) => run.run_id)).toEqual([
      run_id,
    ]);
    clock.advance(10 * DAY_MS);
    await sweep.turn();
    expect((await viewer.call(nodeLog, { params: { id: 'web-1' } })).items).toMatchObject([
      { message: 'later', run_id: null },
    ]);
    expect((await viewer.call(runLog, { params: { id: run_id } })).items).toEqual([]);
    expect(moved.config.name).toBe('moved');
  });

  test('a node keeps its newest lines, and of what it was refused the newest, at a bounded rate', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock, config: { 'backups.log_lines_per_node': 10 } });
    const node = await server.enrol('web-1');
    const { lines, parts } = server.running.backups;
    for (let at = 0; at < 12; at++)
      await lines.addToNode(node.uid, { at: new Date(at).toISOString(), level: 'info', message: `line ${at}` });
    const told = (await server.as('viewer').call(nodeLog, { params: { id: 'web-1' } })).items;
    expect(told.map(({ message }) => message)).toEqual(Array.from({ length: 10 }, (_, at) => `line ${at + 2}`));
    const refuse = (reason: string) =>
      parts.audit.record({ nodeUid: node.uid, runId: null, action: 'sign', reason, asked: { key: 'a\0b' } });
    for (let at = 0; at < 130; at++) await refuse(`no ${at}`);
    clock.advance(60_000);
    await refuse('no more');
    const { read } = server.running.storage;
    const rows = await read.selectFrom('backups_audit').select(['reason', 'asked']).orderBy('id').execute();
    expect([rows.length, rows[119], rows[120]]).toEqual([
      121,
      { reason: 'no 119', asked: '{"key":"a\\ufffdb"}' },
      { reason: 'no more (10 refusals before this one were only counted)', asked: '{"key":"a\\ufffdb"}' },
    ]);
  });
});
