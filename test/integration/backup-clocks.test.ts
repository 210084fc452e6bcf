import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { ListMultipartUploadsCommand } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type HostileS3, type SeenRequest, startHostileS3 } from '../faults/hostile-s3.ts';
import { waitFor } from '../faults/wait.ts';
import { plantTree } from '../fleet/backup-fleet.ts';
import { type BackupJudge, backupJudge, type RunSeen } from '../fleet/backup-judge.ts';
import { faultsIn } from '../fleet/database.ts';
import { type HeldFleet, type HeldNode, startHeldFleet } from '../fleet/in-process.ts';
import { type Radosgw, startRadosgw } from '../fleet/radosgw.ts';

/** Clocks that jump by a day in the middle of a backup to a real S3 server, whose own clock is right. Durations are the daemon's own, so that
 *  its clock alone harms nothing; a server whose clock is off signs what S3 refuses, and the run says so. */

const DAY = 24 * 3_600_000;
const MIB = 1024 * 1024;
let s3: Radosgw;
let proxy: HostileS3;
let held: HeldFleet;
let node: HeldNode;
let judge: BackupJudge;
let bucket: string;
let source: string;
beforeAll(async () => {
  [s3, held] = await Promise.all([
    startRadosgw(),
    startHeldFleet({ backups_sweep_uploads_after_sec: 5, backups_s3_timeout_sec: 2 }),
  ]);
  bucket = await s3.bucket();
  proxy = await startHostileS3(s3.endpoint);
  node = held.node('web-1', {
    backups_part_bytes: 5 * MIB,
    backups_spool_parts: 1,
    backups_parallel_parts: 1,
    backups_retry_sec: 2,
    backups_stall_sec: 2,
  });
  await node.start();
  judge = backupJudge({ folder: held.folder, url: held.server.url, token: held.token, api: held.api });
  await judge.aegis('nodes', 'trust', 'web-1', '--accept-new');
  source = join(held.folder, 'source');
  mkdirSync(source);
  plantTree(source, 6);
}, 120_000);
afterAll(async () => {
  await held?.[Symbol.asyncDispose]();
  await proxy?.[Symbol.asyncDispose]();
  await s3?.stop();
});

const isPart = ({ method, query }: SeenRequest): boolean => method === 'PUT' && query.has('partNumber');
const configure = async (name: string, retries: number): Promise<void> => {
  const { status, body } = await held.api.call('PUT', `/api/v1/backups/configs/${name}`, {
    spec: {
      name,
      sources: [source],
      destination: {
        kind: 's3',
        bucket,
        region: 'us-east-1',
        prefix: 'held',
        endpoint: proxy.url,
        path_style: true,
      },
      nodes: ['web-1'],
      retries: { max: retries, backoff_sec: 1 },
    },
    credentials: { access_key_id: s3.accessKey, secret_access_key: s3.secretKey },
    probe: false,
  });
  expect([status, body]).toEqual([200, body]);
  await waitFor('the node to have it', async () => {
    const answer = await held.api.call('GET', `/api/v1/backups/configs/${name}/nodes`);
    return (answer.body as { items: { taken: boolean }[] }).items.every(({ taken }) => taken);
  });
};
/** A run whose first part stands still. */
const beginAndHold = async (name: string, retries = 0): Promise<string> => {
  await configure(name, retries);
  const before = proxy.seen.length;
  proxy.misbehave('hang', isPart);
  const id = await judge.begin(name, node.dataDir);
  await waitFor('a part', () => proxy.seen.slice(before).some(isPart));
  return id;
};
const allRight = (): void => {
  for (const clock of [held.serverClock, node.clock]) clock.offsetMs = 0;
};
const over = async (name: string, id: string): Promise<RunSeen | undefined> => {
  let run: RunSeen | undefined;
  await waitFor(
    `${name} to be over`,
    async () => {
      run = (await judge.runs(name)).find(({ run_id }) => run_id === id);
      return run !== undefined && run.state !== 'running';
    },
    60_000,
    () => JSON.stringify(run),
  );
  return run;
};

test.each([
  // These first: what they leave in the bucket is swept while the others run.
  ['the server', 'forward', /clock/],
  ['the server', 'back', /clock/],
  ['the node', 'forward', null],
  ['the node', 'back', null],
] as const)(
  "%s's clock jumps a day %s in the middle of a run",
  async (whose, where, reason) => {
    const name = `${whose.replace('the ', '')}-${where}`;
    const first = await beginAndHold(name);
    (whose === 'the node' ? node.clock : held.serverClock).offsetMs = where === 'forward' ? DAY : -DAY;
    proxy.mend();
    expect(await over(name, first)).toMatchObject(
      reason
        ? { state: 'failed', reason: { code: 'backups.destination_failed', message: expect.stringMatching(reason) } }
        : { state: 'completed', reason: null },
    );
    allRight();
    // Without anybody's help.
    const second = await judge.begin(name, node.dataDir);
    expect((await over(name, second))?.state).toBe('completed');
    expect(await judge.faults(name, source)).toEqual([]);
  },
  120_000,
);

test('all clocks jump a day forward, and back once S3 has refused a part', async () => {
  const first = await beginAndHold('returned', 5);
  for (const clock of [held.serverClock, node.clock]) clock.offsetMs = DAY;
  proxy.mend();
  const before = proxy.seen.length;
  await waitFor('a refusal', () => proxy.seen.slice(before).some((one) => isPart(one) && one.status === 403));
  allRight();
  expect((await over('returned', first))?.state).toBe('completed');
  expect(await judge.faults('returned', source)).toEqual([]);
}, 120_000);

test('nothing is left of them', async () => {
  await waitFor('an empty spool', () => readdirSync(join(node.dataDir, 'backups', 'spool')).length === 0);
  await waitFor(
    'no upload to be left',
    async () => (await s3.s3().send(new ListMultipartUploadsCommand({ Bucket: bucket }))).Uploads === undefined,
    40_000,
  );
  expect(faultsIn(held.server.dataDir)).toEqual([]);
}, 60_000);
