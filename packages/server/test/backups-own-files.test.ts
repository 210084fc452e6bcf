import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openStatement } from '@aegis/archive/backup/statement';
import { cancelRun, forgetRuns, listRuns, runConfig, showRun, verifyRun } from '@aegis/protocol/backups/endpoints';
import type { Run } from '@aegis/protocol/backups/run';
import { GetObjectCommand, ListMultipartUploadsCommand, ListObjectsV2Command } from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { startHostileS3 } from '../../../test/faults/hostile-s3.ts';
import { waitFor } from '../../../test/faults/wait.ts';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { sentence } from './artifacts-support.ts';
import { createS3Config } from './backups-s3-support.ts';
import { create } from './backups-support.ts';
import { STORAGES } from './commands-support.ts';
import { handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** Backups of the server's own files: what may be read is named by its settings alone, and the runs are as those of nodes. */

let folder: string;
let source: string;
const plant = (at: string) => {
  mkdirSync(join(at, 'sub'), { recursive: true });
  writeFileSync(join(at, 'a.txt'), 'a file');
  writeFileSync(join(at, 'sub', 'b.bin'), Buffer.alloc(300_000, 'b'));
};
const begin = () => {
  folder = mkdtempSync(join(tmpdir(), 'aegis-own-files-'));
  source = join(folder, 'files');
  plant(source);
};
const finish = () => rmSync(folder, { recursive: true, force: true });

const own = (more: Record<string, unknown> = {}) => ({ execution_mode: 'server', sources: [source], ...more });
const runNow = (server: TestServer, id: string) => server.as('operator').call(runConfig, { params: { id } });
const show = (server: TestServer, id: string): Promise<Run> => server.as('viewer').call(showRun, { params: { id } });
const ended = async (server: TestServer, id: string): Promise<Run> => {
  let run = await show(server, id);
  await waitFor('the end of the run', async () => {
    run = await show(server, id);
    return run.state !== 'running';
  });
  return run;
};
const unpacked = (archive: Buffer, from = source): string => {
  const target = mkdtempSync(join(folder, 'restored-'));
  const tar = execFileSync('zstd', ['-dcq'], { input: archive, maxBuffer: 1e9 });
  execFileSync('tar', ['-x', '-C', target], { input: tar });
  return join(target, from);
};

describe.each(STORAGES)('%s', (storage) => {
  beforeEach(begin);
  afterEach(finish);

  test('nothing may be read or written but what the settings name, and nothing is run', async () => {
    const destination = { kind: 'file', path: join(folder, 'to') };
    await using closed = await startTestServer({ storage });
    expect(await sentence(create(closed, own()))).toBe(
      `422 backups.bad_config: sources: the server may not back up ${source}. It backs up none of its own files: name them in its settings (backups.server_sources).`,
    );
    await using server = await startTestServer({
      storage,
      config: { backups_server_sources: [source, '/srv/data'], backups_server_destinations: [destination.path] },
    });
    const refused = async (more: Record<string, unknown>) => sentence(create(server, own({ destination, ...more })));
    expect([
      await refused({ sources: ['/etc'] }),
      await refused({ sources: [source, '/srv/database'] }),
      await refused({ sources: [folder] }),
      await refused({ destination: { kind: 'file', path: '/etc/cron.d' } }),
      await refused({ hooks: { before: [{ argv: ['/bin/true'] }] } }),
      await refused({ hooks: { on_failure: [{ argv: ['/bin/true'] }] } }),
      await refused({ exclude: { files: ['/etc/shadow'] } }),
      await refused({ bandwidth: { upload: 1_000_000 } }),
    ]).toEqual([
      expect.stringMatching(
        /^422 backups\.bad_config: sources: the server may not back up \/etc\. Its settings .* allow .*\/srv\/data\.$/,
      ),
      expect.stringMatching(/^422 backups\.bad_config: sources: the server may not back up \/srv\/database\. /),
      expect.stringMatching(/^422 backups\.bad_config: sources: the server may not back up /),
      expect.stringMatching(/^422 backups\.bad_config: destination: the server may not write to \/etc\/cron\.d\. /),
      expect.stringMatching(/^422 backups\.bad_config: hooks: /),
      expect.stringMatching(/^422 backups\.bad_config: hooks: /),
      expect.stringMatching(/^422 backups\.bad_config: exclude: /),
      expect.stringMatching(/^422 backups\.bad_config: bandwidth: /),
    ]);
    // A link inside of what is allowed leads nowhere else.
    symlinkSync('/etc', join(source, 'link'));
    mkdirSync(destination.path);
    const { config } = await create(server, own({ destination, sources: [join(source, 'link', 'ssl')] }));
    const { run_id } = await runNow(server, config.config_id);
    expect((await ended(server, run_id)).reason).toEqual({
      code: 'backups.bad_config',
      message: `sources: ${source}/link/ssl leads to /etc/ssl, which the server may not back up (backups.server_sources).`,
    });
    const agent = await create(server, { name: 'agent' });
    expect(await sentence(runNow(server, agent.config.config_id))).toMatch(
      /^422 backups\.unsupported: 'agent' is carried out by nodes\./,
    );
  });

  test('to a folder: whole, signed by the server, removed by retention; the data directory stays out', async () => {
    const clock = handClock();
    const to = join(folder, 'to');
    mkdirSync(to);
    const dataDir = join(source, 'of-the-server');
    mkdirSync(dataDir);
    await using server = await startTestServer({
      storage,
      clock,
      dataDir,
      config: { backups_server_sources: [source], backups_server_destinations: [to] },
    });
    const { config } = await create(
      server,
      own({ destination: { kind: 'file', path: to }, retention: { keep_last: 1 } }),
    );
    const id = config.config_id;
    const begun = await runNow(server, id);
    expect(begun).toMatchObject({ node_uid: null, node: 'server', trigger: 'request', state: 'running' });
    const run = await ended(server, begun.run_id);
    expect(run).toMatchObject({ state: 'completed', reason: null, totals: { files: 2, bytes: 300_006, errors: 0 } });
    const below = join(to, 'server', id, run.run_id, '1');
    expect(readdirSync(below).sort()).toEqual(['archive.tar.zst', 'manifest.ndjson.zst', 'statement.json']);
    const restored = unpacked(readFileSync(join(below, 'archive.tar.zst')));
    expect(readdirSync(restored).sort()).toEqual(['a.txt', 'sub']);
    expect(readFileSync(join(restored, 'sub', 'b.bin'))).toEqual(Buffer.alloc(300_000, 'b'));
    const { serverKeyOf } = server.running.backups.parts;
    const { statement } = openStatement(
      readFileSync(join(below, 'statement.json')),
      new Map([[run.node_key ?? '', serverKeyOf(run.node_key ?? '') ?? Buffer.alloc(0)]]),
    );
    expect(statement).toMatchObject({ run_id: run.run_id, node_uid: null, archive: { bytes: run.archive_bytes } });

    clock.advance(60_000);
    const next = await runNow(server, id);
    await ended(server, next.run_id);
    await server.running.backups.upkeep.retention.turn();
    expect(readdirSync(join(to, 'server', id))).toEqual([next.run_id]);
    expect((await server.as('operator').call(forgetRuns, { params: { id } })).decisions).toMatchObject([
      { node: 'server', keep: true },
    ]);
  });

  test('by schedule: on time, once for what was missed, and not while it is paused', async () => {
    const clock = handClock(Date.parse('2026-03-02T01:00:00.000Z'));
    const to = join(folder, 'to');
    mkdirSync(to);
    await using server = await startTestServer({
      storage,
      clock,
      config: { backups_server_sources: [source], backups_server_destinations: [to] },
    });
    await create(server, own({ destination: { kind: 'file', path: to }, schedule: { cron: '30 2 * * *' } }));
    const turn = () => server.running.backups.ownSchedule.turn();
    const runs = async () =>
      (await server.as('viewer').call(listRuns)).items.map(({ trigger, state }) => `${trigger} ${state}`);
    const all = () => waitFor('the ends', async () => (await runs()).every((text) => !text.endsWith('running')));
    await turn();
    expect(await runs()).toEqual([]);
    clock.advance(90 * 60_000 + 1000);
    await turn();
    await turn();
    await all();
    expect(await runs()).toEqual(['schedule completed']);
    await server.restart();
    await turn();
    expect(await runs()).toHaveLength(1);
    clock.advance(5 * 86_400_000 + 3_600_000); // the server was away for days
    await server.restart();
    await turn();
    await all();
    await turn();
    expect(await runs()).toEqual(['missed completed', 'schedule completed']);
  });
});

describe('at S3', () => {
  let gateway: Radosgw;
  beforeAll(async () => {
    begin();
    gateway = await startRadosgw();
  });
  afterAll(async () => {
    await gateway?.stop();
    finish();
  });
  const objectsIn = async (bucket: string) => {
    const s3 = gateway.s3();
    const [{ Contents = [] }, { Uploads = [] }] = [
      await s3.send(new ListObjectsV2Command({ Bucket: bucket })),
      await s3.send(new ListMultipartUploadsCommand({ Bucket: bucket })),
    ];
    s3.destroy();
    return { keys: Contents.map(({ Key = '' }) => Key.replace(/^.*\//, '')), uploads: Uploads.length };
  };

  test.concurrent('larger than one part: stored, verified, restorable with stock tools', async () => {
    const large = join(folder, 'large');
    plant(large);
    const noise = join(large, 'noise');
    writeFileSync(noise, randomBytes(20_000_000));
    await using server = await startTestServer({ config: { backups_server_sources: [large] } });
    const bucket = await gateway.bucket();
    const more = { ...own({ sources: [large] }), nodes: [] };
    const { config_id: id } = await createS3Config(server, gateway, { bucket, more });
    const { run_id } = await runNow(server, id);
    expect(await sentence(runNow(server, id))).toMatch(/^409 backups\.busy: 'home' is being carried out/);
    const run = await ended(server, run_id);
    expect(run).toMatchObject({
      state: 'completed',
      totals: { files: 3 },
      destination: expect.stringContaining('/server/'),
    });
    expect(await objectsIn(bucket)).toEqual({
      keys: ['archive.tar.zst', 'manifest.ndjson.zst', 'statement.json'],
      uploads: 0,
    });
    expect(await server.as('operator').call(verifyRun, { params: { id: run_id } })).toMatchObject({
      verified: { ok: true },
    });
    const s3 = gateway.s3();
    const Key = `fleet/a/server/${id}/${run_id}/1/archive.tar.zst`;
    const { Body } = await s3.send(new GetObjectCommand({ Bucket: bucket, Key }));
    const bytes = Buffer.from((await Body?.transformToByteArray()) ?? []);
    s3.destroy();
    expect(readFileSync(join(unpacked(bytes, large), 'noise')).equals(readFileSync(noise))).toBe(true);
  });

  test.concurrent('S3 fails: tried again under another prefix, then failed with the reason; nothing half-way is left', async () => {
    await using proxy = await startHostileS3(gateway.endpoint);
    await using server = await startTestServer({
      config: { backups_server_sources: [source], backups_s3_attempts: 1 },
    });
    const bucket = await gateway.bucket();
    const { config_id: id } = await createS3Config(server, gateway, {
      bucket,
      endpoint: proxy.url,
      change: { probe: false },
      more: { ...own(), nodes: [], retries: { max: 1, backoff_sec: 1 } },
    });
    proxy.misbehave(
      { answer: 500, code: 'InternalError' },
      ({ method, path }) => method === 'PUT' && path.includes('/1/'),
    );
    const first = await ended(server, (await runNow(server, id)).run_id);
    expect(first).toMatchObject({ state: 'completed', attempt: 2 });
    proxy.mend();
    proxy.misbehave({ answer: 503, code: 'SlowDown' }, ({ method }) => method === 'PUT');
    const second = await ended(server, (await runNow(server, id)).run_id);
    expect(second).toMatchObject({ state: 'failed', attempt: 2, reason: { code: 'backups.destination_failed' } });
    expect((await objectsIn(bucket)).uploads).toBe(0);
  });

  test.concurrent('cancelled, and cut off by a stop of the server: both say so', async () => {
    await using proxy = await startHostileS3(gateway.endpoint);
    await using server = await startTestServer({ config: { backups_server_sources: [source] } });
    const bucket = await gateway.bucket();
    const { config_id: id } = await createS3Config(server, gateway, {
      bucket,
      endpoint: proxy.url,
      change: { probe: false },
      more: { ...own(), nodes: [] },
    });
    proxy.misbehave('hang', ({ method }) => method === 'PUT');
    const hung = await runNow(server, id);
    await waitFor('a request', () => proxy.seen.some(({ method }) => method === 'PUT'));
    await server.as('operator').call(cancelRun, { params: { id: hung.run_id } });
    expect(await ended(server, hung.run_id)).toMatchObject({
      state: 'cancelled',
      reason: { code: 'backups.cancelled' },
    });
    const puts = () => proxy.seen.filter(({ method }) => method === 'PUT').length;
    const before = puts();
    const cut = await runNow(server, id);
    await waitFor('another request', () => puts() > before);
    await server.restart();
    expect(await show(server, cut.run_id)).toMatchObject({
      state: 'failed',
      reason: { code: 'backups.lost', message: 'The server was stopped while it made this backup.' },
    });
  });

  test.concurrent('after a crash nobody carries a run out any more: it has failed', async () => {
    const clock = handClock();
    await using server = await startTestServer({ clock, config: { backups_server_sources: [source] } });
    const bucket = await gateway.bucket();
    const { config_id: id } = await createS3Config(server, gateway, { bucket, more: { ...own(), nodes: [] } });
    const { run_id } = await runNow(server, id);
    await ended(server, run_id);
    await server.running.storage.write('test', async (tx) => {
      await tx
        .updateTable('backups_runs')
        .set({ state: 'running', finished_at: null })
        .where('id', '=', run_id)
        .execute();
    });
    await server.running.backups.ownSchedule.turn();
    expect(await show(server, run_id)).toMatchObject({ state: 'running' });
    clock.advance(130_000);
    await server.running.backups.ownSchedule.turn();
    expect(await show(server, run_id)).toMatchObject({ state: 'failed', reason: { code: 'backups.lost' } });
  });
});
