import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { listRuns, verifyRun } from '@aegis/protocol/backups/endpoints';
import { objectNames } from '@aegis/protocol/backups/run';
import { ListObjectVersionsCommand } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type HostileS3, type SeenRequest, startHostileS3 } from '../../../test/faults/hostile-s3.ts';
import { type ManagedProcess, managedProcess } from '../../../test/faults/process.ts';
import { waitFor } from '../../../test/faults/wait.ts';
import { faultsIn } from '../../../test/fleet/database.ts';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { answeredAfter, createS3Config, finishRun, startRun } from './backups-s3-support.ts';
import { type EnrolledNode, enrolThrough } from './start-test-server.ts';
import { testClient } from './test-client.ts';

/** The server dies (kill -9) while retention removes a run at a real S3 server: between its requests, and on either
 *  side of each record. */

const NAMES = Object.values(objectNames(false)).sort();
const STATEMENT = 'statement.json';

let gateway: Radosgw;
let proxy: HostileS3;
let server: ManagedProcess;
let folder: string;
let url = '';

beforeAll(async () => {
  gateway = await startRadosgw();
  proxy = await startHostileS3(gateway.endpoint);
  folder = mkdtempSync(join(tmpdir(), 'aegis-removal-crash-'));
  const flags = { dev: true, data_dir: join(folder, 'data'), listen: ['127.0.0.1:0=all'], backups_s3_attempts: 1 };
  const main = join(import.meta.dirname, 'server-process.ts');
  const argv = [process.execPath, main, JSON.stringify(flags)];
  server = managedProcess('the server', argv, join(folder, 'server.log'), {
    PATH: process.env.PATH ?? '',
    HOME: folder,
  });
});
afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  await proxy?.[Symbol.asyncDispose]();
  await gateway?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const begin = async (env: Record<string, string> = {}): Promise<void> => {
  const ready = (await server.start(env)) as { addresses: { all: string } } | null;
  if (ready) url = ready.addresses.all;
};
const client = (token?: string) =>
  testClient(
    () => url,
    async () => token,
  );
const dev = client();
const enrolled = async (): Promise<EnrolledNode> => {
  const trust = await dev.call(showTrust);
  const { fleet } = JSON.parse(Buffer.from(trust.trust_bundle.payload, 'base64').toString()) as { fleet: string };
  const keys = generateKeyPair();
  const identity = { fleet, rootFingerprint: trust.root_fingerprint };
  const { token, agent_uid } = await enrolThrough(dev, { host_id: 'n' }, keys, undefined, identity);
  return { ...client(token), uid: agent_uid, name: 'n', keys, token };
};
const isRemoval = ({ method }: SeenRequest): boolean => method === 'DELETE';
const isListing = ({ method, query }: SeenRequest): boolean => method === 'GET' && query.has('versions');

/** Where it dies: when S3 has done the nth of these, or at a point of its own. */
type Death = { ask: (one: SeenRequest) => boolean; nth: number } | { point: string };
const DEATHS: [string, Death][] = [
  ['before the mark is stored', { point: 'server.before-commit.backups.forget' }],
  ['once the mark is stored', { point: 'server.after-commit.backups.forget' }],
  ['before the first object goes', { ask: isListing, nth: 1 }],
  ['when the statement is gone', { ask: isRemoval, nth: 1 }],
  ['when two objects are gone', { ask: isRemoval, nth: 2 }],
  ['when all are gone, and nothing is recorded', { point: 'server.before-commit.backups.removal' }],
  ['when that is just recorded', { point: 'server.after-commit.backups.removal' }],
];

test('whenever it dies: what is left never looks whole, the rest goes, and the others stay', async () => {
  await begin();
  const node = await enrolled();
  const bucket = await gateway.bucket();
  const as = { as: () => dev } as unknown as Parameters<typeof createS3Config>[0];
  const { config_id: id } = await createS3Config(as, gateway, {
    bucket,
    endpoint: proxy.url,
    more: { retention: { keep_last: 2 } },
  });
  /** Of the objects that are there, by run. */
  const there = async (): Promise<Record<string, string[]>> => {
    const s3 = gateway.s3();
    const { Versions = [], DeleteMarkers = [] } = await s3.send(new ListObjectVersionsCommand({ Bucket: bucket }));
    s3.destroy();
    const byRun: Record<string, string[]> = {};
    for (const { Key = '' } of [...Versions, ...DeleteMarkers]) {
      const [run = '', , name = ''] = Key.split('/').slice(-3);
      byRun[run] = [...(byRun[run] ?? []), name].sort();
    }
    return byRun;
  };
  const good = async (): Promise<string> => {
    const run = await startRun(node, id);
    await finishRun(node, id, run, Buffer.from(`archive of ${run.id}`));
    return run.id;
  };
  const shown = async (removed: boolean) =>
    (await dev.call(listRuns, { query: { config: id, removed: String(removed) as 'true' } })).items;
  let kept = [await good(), await good()];

  for (const [when, death] of DEATHS) {
    if ('point' in death) {
      await server.kill9();
      await begin({ AEGIS_CRASH_AT: `${death.point}#1` });
    } else {
      let seen = 0;
      const die = async () => {
        await server.kill9();
        throw new Error('nobody is there to be answered');
      };
      proxy.misbehave(answeredAfter(gateway, die), (ask) => death.ask(ask) && ++seen === death.nth);
    }
    const goner = kept[0] ?? '';
    // The end of this one makes the oldest go. It counts, whether its answer arrived or not.
    await good().catch(() => undefined);
    await server.gone();
    proxy.mend();
    const left = (await there())[goner] ?? [];
    expect([when, left.includes(STATEMENT) && left.length < NAMES.length]).toEqual([when, false]);

    await begin();
    const last = (await shown(false))[0]?.run_id ?? '';
    // The next end wakes it.
    kept = [last, await good()];
    await waitFor(
      `what is to go, after a death ${when}`,
      async () => Object.keys(await there()).length === 2,
      30_000,
      () => server.log().slice(-2000),
    );
    expect([when, await there()]).toEqual([when, Object.fromEntries(kept.map((run) => [run, NAMES]))]);
    expect([when, (await shown(false)).map(({ run_id }) => run_id)]).toEqual([when, [...kept].reverse()]);
    for (const run of kept)
      expect([when, (await dev.call(verifyRun, { params: { id: run } })).verified?.ok]).toEqual([when, true]);
  }
  await server.stop();
  expect(faultsIn(join(folder, 'data'))).toEqual([]);
}, 240_000);
