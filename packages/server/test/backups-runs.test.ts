import { randomUUID } from 'node:crypto';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import {
  assignConfig,
  cancelRun,
  configNodes,
  deleteConfig,
  listConfigs,
  runLog,
} from '@aegis/protocol/backups/endpoints';
import { postProgress, postRunLog } from '@aegis/protocol/backups/node-endpoints';
import type { Run, RunProgress } from '@aegis/protocol/backups/run';
import { apiRetireNode } from '@aegis/protocol/nodes/endpoints';
import { describe, expect, test } from 'vitest';
import { renewToken, sentence } from './artifacts-support.ts';
import { show, stage } from './backups-runs-support.ts';
import { end, failedEnd, goodEnd, progress, put, start, starting } from './backups-support.ts';
import { STORAGES } from './commands-support.ts';
import { type EnrolledNode, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** Runs: begun, told of, ended, cancelled and lost, by honest nodes and by others. */

const MINUTE = 60_000;
const tell = (node: EnrolledNode, id: string, more: Partial<RunProgress> = {}) =>
  node.call(postProgress, { params: { id }, body: progress(more) });
const cancel = (server: TestServer, id: string) => server.as('operator').call(cancelRun, { params: { id } });
const audit = async (server: TestServer) =>
  (await server.running.storage.read.selectFrom('backups_audit').selectAll().orderBy('id').execute()).map(
    ({ action, reason }) => `${action}: ${reason}`,
  );

describe.each(STORAGES)('%s', (storage) => {
  test('a run from its start to its end, each step once and again', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const { node, id } = await stage(server, { tags: ['daily'] });
    const request = starting(id, { scheduled_at: '2026-11-21T02:30:00.000Z' });
    const began = new Date(clock.now()).toISOString();
    const grant = await start(node, request);
    expect(grant).toEqual({
      run_id: request.run_id,
      attempt: 1,
      started_at: began,
      prefix: `${node.uid}/${id}/${request.run_id}/1/`,
      max_bytes: 5 * 1024 ** 4 + 1024 ** 3,
      sealed_credentials: null,
      conditional_writes: true,
      cancelled: false,
    });
    clock.advance(1000);
    expect(await start(node, request)).toEqual(grant);
    const said = progress({ path: '/home/a\0b', at: '2026-11-21T00:00:02.000Z' });
    expect(await node.call(postProgress, { params: { id: grant.run_id }, body: said })).toEqual({ cancelled: false });
    await tell(node, grant.run_id, { at: '2026-11-21T00:00:01.000Z', files: 1 }); // overtaken
    const run: Run = {
      run_id: grant.run_id,
      config_id: id,
      config: 'home',
      node_uid: node.uid,
      node: 'web-1',
      node_key: node.keys.keyId,
      trigger: 'schedule',
      state: 'running',
      attempt: 1,
      started_at: began,
      finished_at: null,
      progress: { ...said, path: '/home/a\uFFFDb' },
      totals: null,
      archive_bytes: 100,
      uploaded_bytes: 50,
      errors: [],
      reason: null,
      encrypted: false,
      destination: `/backup/${grant.prefix}`,
      tags: ['daily'],
      locked_until: null,
      removed_at: null,
      verified: null,
    };
    expect(await show(server, grant.run_id)).toEqual(run);
    const line = {
      at: '2026-11-21T00:00:01.000Z',
      level: 'info' as const,
      message: 'scanning',
      metadata: { files: 3 },
    };
    const log = (lines: (typeof line)[]) => node.call(postRunLog, { params: { id: grant.run_id }, body: { lines } });
    expect([await log([line]), await log([line, { ...line, message: 'archiving' }])]).toEqual([
      { stored: 1 },
      { stored: 1 },
    ]);
    expect(await server.as('viewer').call(runLog, { params: { id: grant.run_id } })).toEqual({
      items: [line, { ...line, message: 'archiving' }],
      next_cursor: null,
    });

    clock.advance(1000);
    const good = goodEnd(node, id, grant);
    const errors = [{ path: '/home/\0', code: 'EACCES', message: 'Permission denied' }];
    expect(await end(node, grant.run_id, { ...good, errors })).toEqual({ stored: true, forget: [] });
    expect(await end(node, grant.run_id, { ...good, errors })).toEqual({ stored: false, forget: [] });
    const ended = {
      ...run,
      state: 'completed',
      finished_at: new Date(clock.now()).toISOString(),
      progress: null,
      totals: good.totals,
      uploaded_bytes: 150,
      errors: [{ ...errors[0], path: '/home/\uFFFD' }],
    };
    expect(await show(server, grant.run_id)).toEqual(ended);
    const state = '409 backups.run_ended: The run RUN has ended (completed): nothing of it changes any more.'.replace(
      'RUN',
      grant.run_id,
    );
    const late = [
      sentence(start(node, request)),
      sentence(start(node, { ...request, attempt: 2 })),
      sentence(tell(node, grant.run_id)),
      sentence(end(node, grant.run_id, good)),
      sentence(end(node, grant.run_id, failedEnd())),
      sentence(cancel(server, grant.run_id)),
    ];
    expect(await Promise.all(late)).toEqual(late.map(() => state));
    expect(await show(server, grant.run_id)).toEqual(ended);
    const [config] = (await server.as('viewer').call(listConfigs)).items;
    expect(config?.last_run).toEqual({ run_id: grant.run_id, node: 'web-1', state: 'completed', started_at: began });
    const standing = (await server.as('viewer').call(configNodes, { params: { id } })).items;
    expect(standing.map((one) => [one.node, one.last_run?.state, one.last_good])).toEqual([
      ['web-1', 'completed', { run_id: grant.run_id, started_at: began }],
      ['web-2', undefined, null],
    ]);
  });

  test('another attempt closes the former: nothing of it is taken any more', async () => {
    await using server = await startTestServer({ storage });
    const { node, id } = await stage(server);
    const request = starting(id);
    const first = await start(node, request);
    await tell(node, first.run_id);
    await put(server, 'home', { nodes: ['web-1', 'web-2'], destination: { kind: 'file', path: '/other' } });
    expect(await start(node, request)).toEqual(first); // under its own terms
    expect(await sentence(start(node, { ...request, attempt: 2 }))).toBe(
      "409 backups.stale_generation: 'home' is in generation 2 by now, this run would be of 1. Fetch the desired state first.",
    );
    const second = await start(node, { ...request, attempt: 2, generation: 2 });
    expect(second).toEqual({ ...first, attempt: 2, prefix: first.prefix.replace('/1/', '/2/') });
    expect(await show(server, first.run_id)).toMatchObject({
      attempt: 2,
      state: 'running',
      progress: null,
      archive_bytes: 0,
      destination: `/other/${second.prefix}`,
    });
    const former = `409 backups.run_conflict: The run ${first.run_id} is in attempt 2; this is of attempt 1. Begin an attempt before you speak of it, and leave a former one alone.`;
    expect(await sentence(start(node, request))).toBe(former);
    expect(await sentence(tell(node, first.run_id))).toBe(former);
    expect(await sentence(end(node, first.run_id, goodEnd(node, id, first)))).toBe(former);
    expect(await sentence(end(node, first.run_id, goodEnd(node, id, { ...second, attempt: 3 })))).toBe(
      former.replace('of attempt 1', 'of attempt 3'),
    );
    expect(await end(node, first.run_id, goodEnd(node, id, second))).toEqual({ stored: true, forget: [] });
  });

  test('what a node may not: each with its sentence, and nothing changes', async () => {
    await using server = await startTestServer({ storage, config: { 'backups.max_running_per_node': 2 } });
    const { node, other, id } = await stage(server);
    const grant = await start(node, starting(id));
    const nobody = randomUUID();
    const cases: [() => Promise<unknown>, string][] = [
      [
        () => tell(other, grant.run_id),
        `404 backups.unknown_run: No backup run '${grant.run_id}'. See 'aegis backups runs'.`,
      ],
      [() => tell(node, nobody), `404 backups.unknown_run: No backup run '${nobody}'. See 'aegis backups runs'.`],
      [
        () => end(other, grant.run_id, goodEnd(other, id, grant)),
        `404 backups.unknown_run: No backup run '${grant.run_id}'. See 'aegis backups runs'.`,
      ],
      [
        () =>
          other.call(postRunLog, {
            params: { id: grant.run_id },
            body: { lines: [{ at: '2026-11-21T00:00:01.000Z', level: 'info', message: 'x' }] },
          }),
        `404 backups.unknown_run: No backup run '${grant.run_id}'. See 'aegis backups runs'.`,
      ],
      [
        () => start(other, starting(id, { run_id: grant.run_id })),
        `409 backups.run_conflict: The id ${grant.run_id} names another run already. Make a new UUIDv7 for a new run.`,
      ],
      [
        () => start(node, starting(id, { run_id: grant.run_id, trigger: 'request' })),
        `409 backups.run_conflict: The id ${grant.run_id} names another run already. Make a new UUIDv7 for a new run.`,
      ],
      [
        () => start(node, starting(id, { run_id: nobody.toUpperCase() })),
        "400 http.malformed: The body's field 'run_id' is not a UUID in lower case.",
      ],
      [
        () => start(node, starting(nobody)),
        `403 backups.not_assigned: The configuration ${nobody} is not assigned to this node. Fetch the desired state.`,
      ],
      [
        () => start(node, starting(id, { generation: 2 })),
        "409 backups.generation_conflict: 'home' is in generation 1 here, this run would be of 2, which this server never issued.",
      ],
      [
        () =>
          node.call(postRunLog, {
            params: { id: grant.run_id },
            body: {
              lines: [
                { at: '2026-11-21T00:00:01.000Z', level: 'info', message: 'x', metadata: { x: 'y'.repeat(17_000) } },
              ],
            },
          }),
        '413 http.too_large: The metadata of a log line takes 4 KiB. Send less of it.',
      ],
    ];
    for (const [asked, expected] of cases) expect(await sentence(asked())).toBe(expected);
    await start(node, starting(id));
    expect(await sentence(start(node, starting(id)))).toBe(
      "409 backups.busy: 'web-1' has 2 runs under way, as many as one node may (backups.max_running_per_node). End one first.",
    );
    const poller = await server.keyless('poller');
    await put(server, 'home', { nodes: ['web-1', 'web-2', 'poller'] });
    expect(await sentence(start(poller as EnrolledNode, starting(id)))).toBe(
      "422 backups.unsupported: A node without a key cannot sign what it backed up. Enrol it with 'aegis register', or use the agents' own API (/api/agent).",
    );
    await server.as('operator').call(assignConfig, { params: { id }, body: { remove: ['web-2'] } });
    expect(await sentence(start(other, starting(id)))).toContain('403 backups.not_assigned');
    expect((await show(server, grant.run_id)).state).toBe('running');
    // Taken off while a run is under way: the run may end.
    await server.as('operator').call(deleteConfig, { params: { id } });
    expect(await end(node, grant.run_id, goodEnd(node, id, grant))).toEqual({ stored: true, forget: [] });
    expect((await show(server, `latest:home@web-1`)).run_id).toBe(grant.run_id);
  });

  test('a good end is proven by its statement, whichever field it lies about', async () => {
    await using server = await startTestServer({ storage });
    const { node, other, id } = await stage(server);
    const grant = await start(node, starting(id));
    const lies: [Record<string, unknown>, string][] = [
      [{ run_id: other.uid }, `says run_id "${other.uid}", the run "${grant.run_id}"`],
      [{ config_id: other.uid }, `says config_id "${other.uid}", the run "${id}"`],
      [{ node_uid: other.uid }, `says node_uid "${other.uid}", the run "${node.uid}"`],
      [{ attempt: 2 }, 'says attempt 2, the run 1'],
      [{ prefix: 'elsewhere/' }, `says prefix "elsewhere/", the run "${grant.prefix}"`],
      [{ encrypted: true }, 'says encrypted true, the run false'],
      [{ state: 'completed_with_errors' }, 'says state "completed_with_errors", the run "completed"'],
      [
        { archive: { name: 'archive.tar.zst', bytes: 101, sha256: 'a'.repeat(64) } },
        'says archive.bytes 101, the run 100',
      ],
      [
        { archive: { name: '../x', bytes: 100, sha256: 'a'.repeat(64) } },
        'says archive.name "../x", the run "archive.tar.zst"',
      ],
      [
        { manifest: { name: 'm', bytes: 100, sha256: 'a'.repeat(64) } },
        'says manifest.name "m", the run "manifest.ndjson.zst"',
      ],
      [
        { manifest: { name: 'manifest.ndjson.zst', bytes: 2 ** 43, sha256: 'a'.repeat(64) } },
        `speaks of more bytes than the ${grant.max_bytes} that the run may write`,
      ],
      [
        { totals: { files: 4, directories: 1, others: 0, bytes: 300, errors: 0 } },
        'says totals "{\\"files\\":4,\\"directories\\":1,\\"others\\":0,\\"bytes\\":300,\\"errors\\":0}", the run "{\\"files\\":3,\\"directories\\":1,\\"others\\":0,\\"bytes\\":300,\\"errors\\":0}"',
      ],
    ];
    for (const [lie, how] of lies)
      expect(await sentence(end(node, grant.run_id, goodEnd(node, id, grant, lie)))).toBe(
        `422 backups.bad_statement: The statement ${how}. The run is not complete: begin another attempt.`,
      );
    const good = goodEnd(node, id, grant);
    const altered = structuredClone(good);
    if (altered.statement)
      altered.statement.payload = Buffer.from(
        Buffer.from(altered.statement.payload, 'base64').toString().replace('"bytes":300', '"bytes":301'),
      ).toString('base64');
    expect(await sentence(end(node, grant.run_id, altered))).toBe(
      "422 backups.bad_statement: The backup's statement cannot be used: its signature is not good: it was altered, or made with another key. Nothing was taken from it.",
    );
    const stranger = { ...node, keys: generateKeyPair() };
    expect(await sentence(end(node, grant.run_id, goodEnd(stranger, id, grant)))).toBe(
      "422 backups.bad_statement: The statement is not signed by this node's own key.",
    );
    expect(await sentence(end(node, grant.run_id, { ...good, statement: null }))).toContain('400 http.malformed');
    expect((await show(server, grant.run_id)).state).toBe('running');
    expect((await audit(server)).length).toBe(lies.length + 2);
    expect(await end(node, grant.run_id, good)).toEqual({ stored: true, forget: [] });
  });

  test('races: two starts, two ends, an end against an attempt: one holds', async () => {
    await using server = await startTestServer({ storage });
    const { node, other, id } = await stage(server);
    const request = starting(id);
    const grants = await Promise.all(Array.from({ length: 5 }, () => start(node, request)));
    expect(new Set(grants.map((one) => JSON.stringify(one))).size).toBe(1);
    const contested = starting(id);
    const both = await Promise.all([node, other].map((one) => sentence(start(one, contested))));
    expect(both.map((text) => text.slice(0, 26)).sort()).toEqual(['409 backups.run_conflict: ', 'it was not refused']);
    const [grant] = grants;
    if (!grant) throw new Error('no grant');
    const good = goodEnd(node, id, grant);
    const ends = await Promise.all([
      sentence(end(node, grant.run_id, good)),
      sentence(end(node, grant.run_id, good)),
      sentence(end(node, grant.run_id, failedEnd())),
    ]);
    const { state } = await show(server, grant.run_id);
    expect(ends.map((text) => text.slice(0, 22))).toEqual(
      state === 'completed'
        ? ['it was not refused', 'it was not refused', '409 backups.run_ended:']
        : ['409 backups.run_ended:', '409 backups.run_ended:', 'it was not refused'],
    );
    const next = await start(node, starting(id));
    await Promise.all([
      sentence(end(node, next.run_id, goodEnd(node, id, next))),
      sentence(start(node, { ...starting(id), run_id: next.run_id, attempt: 2 })),
    ]);
    const after = await show(server, next.run_id);
    expect([`completed 1`, `running 2`]).toContain(`${after.state} ${after.attempt}`);
  });

  test('cancel: the node hears of it with its next sign, and its own end counts', async () => {
    await using server = await startTestServer({ storage });
    const { node, id } = await stage(server);
    const request = starting(id);
    const grant = await start(node, request);
    expect((await cancel(server, grant.run_id)).state).toBe('running');
    await cancel(server, grant.run_id);
    expect([
      await tell(node, grant.run_id),
      (await start(node, request)).cancelled,
      await start(node, { ...request, attempt: 2 }),
    ]).toEqual([{ cancelled: true }, true, { ...grant, cancelled: true }]);
    const reason = { code: 'backups.cancelled', message: 'Cancelled by test-operator.' };
    await end(node, grant.run_id, { ...failedEnd(), state: 'cancelled', reason });
    expect(await show(server, grant.run_id)).toMatchObject({ state: 'cancelled', reason });
    await cancel(server, grant.run_id); // it is
    expect(await sentence(cancel(server, randomUUID()))).toContain('404 backups.unknown_run');
  });

  test('loss: soon where the node is there, late where it is away, and never against the node’s own word', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const { node, other, id } = await stage(server);
    const first = await start(node, starting(id));
    const away = await start(other, starting(id));
    const { loss } = server.running.backups;
    const minutes = async (count: number, alive: readonly EnrolledNode[]) => {
      for (let at = 0; at < count; at++) {
        clock.advance(MINUTE);
        for (const { uid } of alive) server.running.nodes.seen(uid);
        await loss.turn();
      }
    };
    const states = async () => [(await show(server, first.run_id)).state, (await show(server, away.run_id)).state];
    await minutes(15, [node]);
    expect(await states()).toEqual(['running', 'running']);
    await minutes(1, [node]);
    expect(await states()).toEqual(['lost', 'running']);
    expect((await show(server, first.run_id)).reason).toEqual({
      code: 'backups.lost',
      message:
        "The node is there but has said nothing of this run for 16 minutes. Look at its daemon's log; if it still speaks of the run, that counts.",
    });
    // Away for an hour, then back: it has its time to speak of the run.
    await minutes(44, [node]);
    await minutes(10, [node, other]);
    expect((await states())[1]).toBe('running');
    await tell(other, away.run_id);
    await minutes(15, [node, other]);
    expect((await states())[1]).toBe('running');
    // The lost one speaks after all, and goes on.
    await tell(node, first.run_id);
    expect(await show(server, first.run_id)).toMatchObject({ state: 'running', finished_at: null, reason: null });
    clock.advance(23 * 60 * MINUTE);
    await loss.turn();
    expect(await states()).toEqual(['running', 'running']);
    clock.advance(61 * MINUTE);
    await loss.turn();
    expect(await states()).toEqual(['lost', 'lost']);
    const back = { ...node, ...server.withToken((await renewToken(server, node, clock.now())).token) };
    expect(await end(back, first.run_id, goodEnd(node, id, first))).toEqual({ stored: true, forget: [] });
    const again = { ...other, ...server.withToken((await renewToken(server, other, clock.now())).token) };
    await start(again, { ...starting(id), run_id: away.run_id, attempt: 2 });
    expect(await states()).toEqual(['completed', 'running']);
    await server.as('admin').call(apiRetireNode, { params: { id: 'web-2' } });
    expect(await show(server, away.run_id)).toMatchObject({ state: 'lost', reason: { code: 'nodes.retired' } });
  });
});
