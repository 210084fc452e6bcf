import { listRuns, verifyRun } from '@aegis/protocol/backups/endpoints';
import { objectNames } from '@aegis/protocol/backups/run';
import { ListObjectVersionsCommand } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type HostileS3, type SeenRequest, startHostileS3 } from '../../../test/faults/hostile-s3.ts';
import { waitFor } from '../../../test/faults/wait.ts';
import { faultsIn } from '../../../test/fleet/database.ts';
import { type MortalServer, mortalServer } from '../../../test/fleet/mortal-server.ts';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { answeredAfter, createS3Config, finishRun, startRun } from './backups-s3-support.ts';

/** The server dies (kill -9) while retention removes a run at a real S3 server: between its requests, and on either
 *  side of each record. */

const NAMES = Object.values(objectNames(false)).sort();
const STATEMENT = 'statement.json';

let gateway: Radosgw;
let proxy: HostileS3;
let mortal: MortalServer;

beforeAll(async () => {
  gateway = await startRadosgw();
  proxy = await startHostileS3(gateway.endpoint);
  mortal = mortalServer({ backups_s3_attempts: 1 });
});
afterAll(async () => {
  await mortal?.[Symbol.asyncDispose]();
  await proxy?.[Symbol.asyncDispose]();
  await gateway?.stop();
});

const isRemoval = ({ method }: SeenRequest): boolean => method === 'DELETE';
const isListing = ({ method, query }: SeenRequest): boolean => method === 'GET' && query.has('versions');

/** Where it dies: when S3 has done the nth of these, or at a point of its own. */
type Death = { ask: (one: SeenRequest) => boolean; nth: number } | { point: string };
const FIRST_POINT = 'server.before-commit.backups.forget';
const DEATHS: [string, Death][] = [
  ['before the mark is stored', { point: FIRST_POINT }],
  ['before the first object goes', { ask: isListing, nth: 1 }],
  ['when the statement is gone', { ask: isRemoval, nth: 1 }],
  ['when all are gone, and nothing is recorded', { ask: isRemoval, nth: NAMES.length }],
];
/** Each costs two more starts of a server, and leaves what one of those above leaves, or nothing to do. */
const MORE_DEATHS: [string, Death][] = [
  ['once the mark is stored', { point: 'server.after-commit.backups.forget' }],
  ['when two objects are gone', { ask: isRemoval, nth: 2 }],
  ['when all are gone, just before that is recorded', { point: 'server.before-commit.backups.removal' }],
  ['when that is just recorded', { point: 'server.after-commit.backups.removal' }],
];

test('whenever it dies: what is left never looks whole, the rest goes, and the others stay', async () => {
  const { server, start: begin } = mortal;
  const up = async (env?: Record<string, string>): Promise<void> => {
    await begin(env);
    if (!server.running) throw new Error(`the server did not start: ${server.log().slice(-2000)}`);
  };
  await up({ AEGIS_CRASH_AT: `${FIRST_POINT}#1` });
  const dev = mortal.client();
  const node = await mortal.enrol('n');
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

  for (const [when, death] of process.env.AEGIS_LONG ? [...DEATHS, ...MORE_DEATHS] : DEATHS) {
    if ('point' in death && death.point !== FIRST_POINT) {
      await server.kill9();
      await begin({ AEGIS_CRASH_AT: `${death.point}#1` });
    } else if ('ask' in death) {
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

    await up();
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
  expect(faultsIn(mortal.dataDir)).toEqual([]);
}, 240_000);
