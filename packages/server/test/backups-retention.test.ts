import { deleteConfig, forgetRuns, listRuns, runLog, showRun, verifyRun } from '@aegis/protocol/backups/endpoints';
import { objectNames } from '@aegis/protocol/backups/run';
import { ListObjectVersionsCommand, PutObjectCommand, PutObjectRetentionCommand } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startHostileS3 } from '../../../test/faults/hostile-s3.ts';
import { waitFor } from '../../../test/faults/wait.ts';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { sentence } from './artifacts-support.ts';
import { createS3Config, finishRun, startRun } from './backups-s3-support.ts';
import { create, end, failedEnd, goodEnd, put, start, starting } from './backups-support.ts';
import { STORAGES } from './commands-support.ts';
import { type EnrolledNode, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** Retention: what it decides over the API, and what becomes of the objects. */

const MINUTE = 60_000;
const HOUR = 3_600_000;
const DAY = 24 * HOUR;
/** Tokens of nodes outlast the tests' days. */
const LONG = { nodes_token_ttl_sec: 30 * 86_400 };
const START = Date.parse('2026-03-01T12:00:00.000Z');

const forget = (server: TestServer, id: string, body: { dry_run?: boolean; node?: string } = {}) =>
  server.as('operator').call(forgetRuns, { params: { id }, body });
/** `keep` or `gone`, the reasons, and whether it was removed, the newest first. */
const told = async (server: TestServer, id: string, body: { dry_run?: boolean; node?: string } = {}) =>
  (await forget(server, id, body)).decisions.map(
    ({ node, keep, reasons, removed }) =>
      `${node} ${keep ? 'keep' : 'gone'}: ${reasons.join(', ')}${removed ? ' (removed)' : ''}`,
  );
const listed = async (server: TestServer, removed = false) =>
  (await server.as('viewer').call(listRuns, { query: { removed: String(removed) as 'true' } })).items.map(
    ({ run_id }) => run_id,
  );
const finish = async (node: EnrolledNode, configId: string, generation = 1): Promise<string> => {
  const grant = await start(node, starting(configId, { generation }));
  await end(node, grant.run_id, goodEnd(node, configId, grant));
  return grant.run_id;
};

describe.each(STORAGES)('%s', (storage) => {
  test('each run with its reason; a dry run changes nothing; the last good one stays', async () => {
    const clock = handClock(START);
    await using server = await startTestServer({ storage, clock, config: LONG });
    const [one, two] = [await server.enrol('web-1'), await server.enrol('web-2')];
    const { config } = await create(server, { nodes: ['web-1', 'web-2'], limits: { run_sec: 3600 } });
    const id = config.config_id;
    const made: string[] = [];
    for (let day = 0; day < 4; day++) {
      made.push(await finish(one, id));
      clock.advance(day === 1 ? HOUR : DAY);
    }
    const broken = await start(two, starting(id));
    await end(two, broken.run_id, failedEnd());
    clock.advance(MINUTE);
    await finish(two, id);
    clock.advance(MINUTE);
    const open = await start(two, starting(id));
    expect(await told(server, id)).toEqual([
      ...Array(4).fill('web-1 keep: the policy has no rules'),
      expect.stringMatching(/^web-2 keep: /),
      expect.stringMatching(/^web-2 keep: /),
      expect.stringMatching(/^web-2 keep: /),
    ]);

    await put(server, id, { nodes: ['web-1', 'web-2'], limits: { run_sec: 3600 }, retention: { keep_daily: 2 } });
    // The second and the third were made on the same day: the newer one stands for it.
    const order = (await forget(server, id, { dry_run: true, node: 'web-1' })).decisions.map(({ run_id }) =>
      made.indexOf(run_id),
    );
    expect(order).toEqual([3, 2, 1, 0]);
    const dry = await told(server, id, { dry_run: true, node: 'web-1' });
    expect(dry).toEqual([
      'web-1 keep: daily run',
      'web-1 keep: daily run',
      ...Array(2).fill('web-1 gone: no rule keeps it'),
    ]);
    expect(await listed(server)).toHaveLength(7);
    expect(await told(server, id, { node: 'web-1' })).toEqual([
      ...dry.slice(0, 2),
      ...Array(2).fill('web-1 gone: no rule keeps it (removed)'),
    ]);
    expect(await told(server, id, { node: 'web-1' })).toEqual(dry.slice(0, 2));

    const until = new Date(clock.now() + HOUR + 13 * MINUTE).toISOString();
    const ofTwo = await told(server, id, { node: 'web-2' });
    expect(ofTwo.sort()).toEqual(
      [
        'web-2 keep: daily run',
        `web-2 keep: failed; until ${until} something of it may still arrive`,
        'web-2 keep: under way',
      ].sort(),
    );
    clock.advance(2 * HOUR);
    await end(two, open.run_id, failedEnd());
    expect((await told(server, id, { node: 'web-2' })).sort()).toEqual(
      [
        'web-2 gone: failed, and a good run is newer (removed)',
        'web-2 keep: daily run',
        'web-2 keep: failed, and no good run is newer',
      ].sort(),
    );
  });

  test('after each good run; a node hears with its end what to remove of its own folder, and a repeat says it again', async () => {
    const clock = handClock(START);
    await using server = await startTestServer({ storage, clock, config: LONG });
    const node = await server.enrol('web-1');
    const { config } = await create(server, { nodes: ['web-1'], retention: { keep_last: 1 } });
    const id = config.config_id;
    const first = await finish(node, id);
    clock.advance(HOUR);
    const second = await finish(node, id);
    await server.running.backups.upkeep.retention.turn();
    expect(await listed(server)).toEqual([second]);
    expect(await server.as('viewer').call(showRun, { params: { id: first } })).toMatchObject({
      removed_at: new Date(clock.now()).toISOString(),
    });
    clock.advance(HOUR);
    const grant = await start(node, starting(id));
    const good = goodEnd(node, id, grant);
    const answer = await end(node, grant.run_id, good);
    expect(answer).toEqual({ stored: true, forget: [{ config_id: id, run_id: first }] });
    await server.running.backups.upkeep.retention.turn();
    const both = { stored: false, forget: [first, second].sort().map((run_id) => ({ config_id: id, run_id })) };
    const repeat = async () => {
      const { stored, forget } = await end(node, grant.run_id, good);
      return { stored, forget: forget.sort((a, b) => (a.run_id < b.run_id ? -1 : 1)) };
    };
    expect(await repeat()).toEqual(both);
    expect(await repeat()).toEqual(both);
    clock.advance(HOUR);
    const last = await start(node, starting(id));
    expect((await end(node, last.run_id, goodEnd(node, id, last))).forget).toEqual([]);
  });

  test('the daily pass finds what nobody spoke of, also what a crash forgot', async () => {
    const clock = handClock(START);
    await using server = await startTestServer({ storage, clock, config: LONG });
    const node = await server.enrol('web-1');
    const { config } = await create(server, { nodes: ['web-1'], retention: { days: 3 } });
    const made: string[] = [];
    for (let day = 0; day < 4; day++) {
      made.push(await finish(node, config.config_id));
      clock.advance(DAY);
    }
    await server.running.backups.upkeep.retention.turn();
    expect(await listed(server)).toEqual([made[3], made[2]]);
    clock.advance(10 * DAY);
    await server.running.backups.upkeep.retention.turn();
    expect(await listed(server)).toEqual([made[3]]); // the last good one
    await server.as('operator').call(deleteConfig, { params: { id: config.config_id } });
    expect(await sentence(forget(server, config.config_id))).toMatch(
      /^404 backups\.unknown_config: No backup configuration/,
    );
  });
});

describe('at S3', () => {
  let gateway: Radosgw;
  beforeAll(async () => {
    gateway = await startRadosgw();
  });
  afterAll(() => gateway?.stop());

  const keysIn = async (bucket: string): Promise<string[]> => {
    const s3 = gateway.s3();
    const { Versions = [], DeleteMarkers = [] } = await s3.send(new ListObjectVersionsCommand({ Bucket: bucket }));
    s3.destroy();
    return [...Versions, ...DeleteMarkers].map(({ Key = '' }) => Key);
  };
  const ofRun = (keys: readonly string[], id: string): string[] =>
    keys.filter((key) => key.includes(`/${id}/`)).map((key) => key.replace(/^.*\/(\d+\/[^/]+)$/, '$1'));
  const NAMES = Object.values(objectNames(false)).map((name) => `1/${name}`);
  const good = async (node: EnrolledNode, id: string, more = {}) => {
    const run = await startRun(node, id, more);
    await finishRun(node, id, run, Buffer.from(`archive of ${run.id}`));
    return run.id;
  };

  test('every attempt of a run goes, its neighbours stay', async () => {
    const clock = handClock();
    await using server = await startTestServer({ clock });
    const node = await server.enrol('web-1');
    const bucket = await gateway.bucket();
    const { config_id: id } = await createS3Config(server, gateway, { bucket, more: { retention: { keep_last: 1 } } });
    const begun = await startRun(node, id);
    await begun.put(begun.key('manifest'), Buffer.from('of the first attempt'));
    const again = await startRun(node, id, { run_id: begun.id, attempt: 2 });
    await finishRun(node, id, again, Buffer.from('an archive'));
    expect(ofRun(await keysIn(bucket), begun.id)).toHaveLength(4);
    clock.advance(MINUTE);
    const last = await good(node, id);
    await server.running.backups.upkeep.retention.turn();
    expect(ofRun(await keysIn(bucket), begun.id)).toEqual([]);
    expect(ofRun(await keysIn(bucket), last).sort()).toEqual([...NAMES].sort());
  });

  test('killed at any request, or refused by S3: what is left never looks whole, and the rest goes later', async () => {
    const clock = handClock();
    await using proxy = await startHostileS3(gateway.endpoint);
    await using server = await startTestServer({ clock, config: { backups_s3_attempts: 1 } });
    const node = await server.enrol('web-1');
    const bucket = await gateway.bucket();
    const { config_id: id } = await createS3Config(server, gateway, {
      bucket,
      endpoint: proxy.url,
      more: { retention: { keep_last: 1 } },
    });
    // The third removal of three is lost on its way.
    let removals = 0;
    proxy.misbehave('reset', ({ method }) => method === 'DELETE' && ++removals > 2);
    const first = await good(node, id);
    clock.advance(MINUTE);
    await good(node, id);
    await server.running.backups.upkeep.retention.turn();
    const left = ofRun(await keysIn(bucket), first);
    expect(left).toHaveLength(1);
    expect(left).not.toContain('1/statement.json');
    expect(await listed(server)).not.toContain(first);
    expect(await sentence(server.as('operator').call(verifyRun, { params: { id: first } }))).toMatch(
      /^404 backups\.unknown_object: /,
    );
    await server.restart();
    await server.running.backups.upkeep.retention.turn();
    expect(ofRun(await keysIn(bucket), first)).toEqual(left); // not before its time
    proxy.mend();
    clock.advance(2 * MINUTE);
    await server.running.backups.upkeep.retention.turn();
    expect(ofRun(await keysIn(bucket), first)).toEqual([]);
  });

  test('object lock: what is locked stays; a longer lock than was known is heeded, recorded, and tried again', async () => {
    const clock = handClock();
    await using server = await startTestServer({ clock });
    const node = await server.enrol('web-1');
    const bucket = await gateway.bucket(undefined, { objectLock: true });
    const { config_id: id } = await createS3Config(server, gateway, {
      bucket,
      destination: { object_lock_days: 1 },
      more: { retention: { keep_last: 1 } },
    });
    const first = await good(node, id);
    const until = new Date(clock.now() + DAY).toISOString();
    clock.advance(MINUTE);
    await good(node, id);
    expect((await told(server, id)).at(-1)).toBe(`web-1 keep: locked until ${until}`);
    // By our clock the lock is over; the server's own has a day to go.
    clock.advance(DAY);
    expect((await told(server, id)).at(-1)).toBe('web-1 gone: no rule keeps it');
    expect(ofRun(await keysIn(bucket), first).sort()).toEqual([...NAMES].sort());
    const run = await server.as('viewer').call(showRun, { params: { id: first } });
    expect(run).toMatchObject({ removed_at: null, locked_until: new Date(clock.now() + DAY).toISOString() });
    const { items } = await server.as('viewer').call(runLog, { params: { id: first } });
    expect(items.at(-1)).toMatchObject({
      level: 'warning',
      message: expect.stringMatching(
        /^Object lock still holds .*statement\.json: the removal is tried again in a day\.$/,
      ),
    });
    // Somebody with the right to do so shortens it.
    const s3 = gateway.s3();
    const { Versions = [] } = await s3.send(new ListObjectVersionsCommand({ Bucket: bucket }));
    for (const { Key = '', VersionId } of Versions.filter((one) => one.Key?.includes(first)))
      await s3.send(
        new PutObjectRetentionCommand({
          Bucket: bucket,
          Key,
          VersionId,
          BypassGovernanceRetention: true,
          Retention: { Mode: 'GOVERNANCE', RetainUntilDate: new Date(Date.now() + 1500) },
        }),
      );
    s3.destroy();
    await waitFor('the removal', async () => {
      clock.advance(DAY + HOUR);
      await server.running.backups.upkeep.retention.turn();
      return ofRun(await keysIn(bucket), first).length === 0;
    });
  });

  test('nothing outside of the folder of the run is touched, whatever it is called', async () => {
    const clock = handClock();
    await using server = await startTestServer({ clock });
    const node = await server.enrol('web-1');
    const bucket = await gateway.bucket();
    const { config_id: id } = await createS3Config(server, gateway, {
      bucket,
      prefix: '',
      more: { retention: { keep_last: 1 } },
    });
    const first = await good(node, id);
    const s3 = gateway.s3();
    const near = [`${node.uid}/${id}/${first}`, `${node.uid}/${id}/${first}x/a`, `x/${node.uid}/${id}/${first}/1/a`];
    for (const Key of near) await s3.send(new PutObjectCommand({ Bucket: bucket, Key, Body: 'mine' }));
    s3.destroy();
    clock.advance(MINUTE);
    await good(node, id);
    await server.running.backups.upkeep.retention.turn();
    expect((await keysIn(bucket)).filter((key) => key.includes(first)).sort()).toEqual([...near].sort());
  });
});
