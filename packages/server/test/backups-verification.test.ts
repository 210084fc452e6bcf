import { showRun, verifyRun } from '@aegis/protocol/backups/endpoints';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startHostileS3 } from '../../../test/faults/hostile-s3.ts';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { sentence } from './artifacts-support.ts';
import { createS3Config, finishRun, startRun } from './backups-s3-support.ts';
import { type EnrolledNode, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** Verification by schedule: the newest archive of each node, as often as is asked for, and what follows from damage. */

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
let gateway: Radosgw;
beforeAll(async () => {
  gateway = await startRadosgw();
});
afterAll(() => gateway?.stop());

const good = async (node: EnrolledNode, id: string) => {
  const run = await startRun(node, id);
  await finishRun(node, id, run, Buffer.from(`archive of ${run.id}`));
  return run;
};
const verified = async (server: TestServer, id: string) =>
  (await server.as('viewer').call(showRun, { params: { id } })).verified;
const turn = (server: TestServer) => server.running.backups.upkeep.verification.turn();

test('the newest of each node, every so many days; damage is told', async () => {
  const clock = handClock();
  await using proxy = await startHostileS3(gateway.endpoint);
  await using server = await startTestServer({
    clock,
    config: { backups_s3_attempts: 1, backups_alert_command: ['/bin/false'], nodes_token_ttl_sec: 30 * 86_400 },
  });
  const [one, two] = [await server.enrol('web-1'), await server.enrol('web-2')];
  const bucket = await gateway.bucket();
  const { config_id: id } = await createS3Config(server, gateway, {
    bucket,
    endpoint: proxy.url,
    more: { verification: { every_days: 2 }, retention: { keep_last: 1 } },
  });
  const { config_id: other } = await createS3Config(server, gateway, { bucket, more: { name: 'unverified' } });
  const whole = await good(one, id);
  clock.advance(60_000);
  const newest = await good(one, id);
  const damaged = await good(two, id);
  const unasked = await good(two, other);
  const s3 = gateway.s3();
  await s3.send(new PutObjectCommand({ Bucket: bucket, Key: damaged.key('archive'), Body: 'something else' }));
  s3.destroy();

  // S3 is away: that says nothing of the archives.
  proxy.cut();
  await turn(server);
  expect([await verified(server, newest.id), await verified(server, damaged.id)]).toEqual([null, null]);
  proxy.mend();
  await turn(server); // not yet
  expect(await verified(server, newest.id)).toBe(null);
  clock.advance(HOUR);
  const at = new Date(clock.now()).toISOString();
  await turn(server);
  expect(await verified(server, newest.id)).toEqual({ at, ok: true, message: 'The objects are what the node signed.' });
  expect(await verified(server, damaged.id)).toMatchObject({
    at,
    ok: false,
    message: expect.stringMatching(/^The archive has 14 bytes, not the \d+ that its node signed\.$/),
  });
  expect([await verified(server, whole.id), await verified(server, unasked.id)]).toEqual([null, null]);
  const alerts = await server.running.storage.read.selectFrom('backups_alerts').select('body').execute();
  expect(alerts.map(({ body }) => JSON.parse(body) as { event: string; run: { run_id: string } })).toMatchObject([
    { event: 'backup.damaged', run: { run_id: damaged.id }, node: { name: 'web-2' } },
  ]);

  const seen = proxy.seen.length;
  clock.advance(DAY);
  await turn(server);
  expect(proxy.seen.slice(seen).filter(({ method }) => method === 'GET')).toEqual([]); // every two days
  clock.advance(DAY);
  await turn(server);
  expect(await verified(server, newest.id)).toMatchObject({ at: new Date(clock.now()).toISOString(), ok: true });
  expect(await server.as('operator').call(verifyRun, { params: { id: newest.id } })).toMatchObject({
    verified: { ok: true },
  });
});

test('an answer that breaks off is no damage, nor is one that does not say its length', async () => {
  await using proxy = await startHostileS3(gateway.endpoint);
  await using server = await startTestServer({ config: { backups_s3_attempts: 1 } });
  const node = await server.enrol('web-1');
  const bucket = await gateway.bucket();
  const { config_id: id } = await createS3Config(server, gateway, { bucket, endpoint: proxy.url });
  const run = await good(node, id);
  const verify = () => server.as('operator').call(verifyRun, { params: { id: run.id } });
  for (const object of ['statement', 'archive', 'manifest'] as const) {
    proxy.misbehave('truncate-answer', ({ path }) => path.endsWith(run.key(object)), 1);
    expect(await sentence(verify())).toMatch(/^503 backups\.destination_failed: Reading an object failed for /);
    expect(await verified(server, run.id)).toBeNull();
  }
  const bodies = {
    [run.key('archive')]: `archive of ${run.id}`,
    [run.key('manifest')]: 'a manifest',
  };
  proxy.misbehave(
    (from, to) => {
      const key = Object.keys(bodies).find((one) => from.url?.includes(one)) ?? '';
      to.writeHead(200).write(bodies[key]?.slice(0, 4));
      to.end(bodies[key]?.slice(4));
    },
    ({ path }) => Object.keys(bodies).some((key) => path.endsWith(key)),
  );
  expect((await verify()).verified).toMatchObject({ ok: true });
});
