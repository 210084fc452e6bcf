import { execFileSync, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type PostgresCluster, startPostgres } from '../../packages/server/test/postgres.ts';
import { waitFor } from '../faults/wait.ts';
import type { Api } from '../fleet/api.ts';
import { aegis, cleanEnv } from '../fleet/fleet.ts';
import { type Redis, startRedis } from '../fleet/redis.ts';
import { type ServerPair, startServerPair, waitOnline } from '../fleet/server-pair.ts';
import { startJob } from '../fleet/workload.ts';

/** Two server processes on one PostgreSQL: nodes poll at one, operators call the other; with notifications alone, and with Redis. */

let cluster: PostgresCluster;
let redis: Redis;
beforeAll(async () => {
  [cluster, redis] = await Promise.all([startPostgres(), startRedis()]);
});
afterAll(async () => {
  await redis[Symbol.asyncDispose]();
  await cluster[Symbol.asyncDispose]();
});

const pairWith = async (bus: 'notifications' | 'redis'): Promise<ServerPair> =>
  startServerPair({
    databaseUrl: await cluster.createDatabase(),
    ...(bus === 'redis' ? { redisUrl: redis.url } : {}),
  });

const exact = async (jobs: readonly { fault(deadlineMs: number): Promise<string | null> }[]): Promise<void> => {
  expect((await Promise.all(jobs.map((job) => job.fault(120_000)))).filter((fault) => fault !== null)).toEqual([]);
};
const wholly = (command: string) => ({
  output_limit_bytes: 0,
  command_type: 'RunCommand',
  payload: { cmd: command },
});

for (const bus of ['notifications', 'redis'] as const)
  test(`${bus}: what is submitted at one server runs at once on a node of the other, is followed and cancelled from there`, async () => {
    await using pair = await pairWith(bus);
    const [{ api: a }, { api: b, url: urlOfB }] = pair.servers;
    const nodes = [pair.node('web-1', 0), pair.node('web-2', 1)];
    await Promise.all(nodes.map(({ daemon }) => daemon.start()));
    await Promise.all([waitOnline(a, 2), waitOnline(b, 2)]);

    // Each way, many at once: every start once, every byte once.
    const jobs = [];
    for (const api of [a, b])
      for (const node of ['web-1', 'web-2'])
        for (const kind of ['quick', 'silent', 'dripping', 'bursting'])
          jobs.push(await startJob({ folder: pair.folder, api }, node, kind));
    await exact(jobs);

    // Followed at B while the node reports to A: a line comes when it is written, long before the end.
    const marker = join(pair.folder, 'go-on');
    const run = await b.submit({
      targets: 'web-1',
      ...wholly(`echo first; until [ -e ${marker} ]; do sleep 0.05; done; echo last`),
    });
    const token = pair.offline('token', '--role', 'viewer');
    const env = cleanEnv(pair.folder, { AEGIS_SERVER: urlOfB, AEGIS_TOKEN: token });
    const follower = spawn(aegis, ['logs', run.id, '-f'], { stdio: ['ignore', 'pipe', 'inherit'], env });
    let followed = '';
    follower.stdout.on('data', (bytes: Buffer) => {
      followed += bytes.toString();
    });
    const ended = new Promise<number | null>((resolve) => follower.once('exit', resolve));
    await waitFor('the first line', () => followed === 'first\n');
    execFileSync('touch', [marker]);
    expect([await ended, followed]).toEqual([0, 'first\nlast\n']);

    // Cancelled at B: the node, which polls at A, is told and ends it.
    const endless = await a.submit({ targets: 'web-1', ...wholly('echo begun; exec sleep 1000') });
    await endless.holds('stdout', 6);
    expect((await b.call('POST', `/api/v1/commands/${endless.id}/cancel`)).status).toBeLessThan(300);
    await waitFor('the node to end it', async () => {
      const [execution] = await endless.executions();
      return execution?.state === 'cancelled' && !execution.presumed;
    });
  }, 180_000);

for (const bus of ['notifications', 'redis'] as const)
  test(`${bus}: database, Redis and one server die in the middle: nothing is lost or doubled`, async () => {
    await using pair = await pairWith(bus);
    const [{ api: a, process: first }, { api: b, process: second }] = pair.servers;
    const nodes = [pair.node('web-1', 0), pair.node('web-2', 1)];
    await Promise.all(nodes.map(({ daemon }) => daemon.start()));
    await waitOnline(b, 2);
    const jobs: Awaited<ReturnType<typeof startJob>>[] = [];
    const more = async (api: Api) => {
      for (const node of ['web-1', 'web-2'])
        for (const kind of ['quick', 'dripping', 'bursting'])
          jobs.push(await startJob({ folder: pair.folder, api }, node, kind));
    };
    await more(a);
    await more(b);
    await cluster.restart();
    await more(a);
    await more(b);
    if (bus === 'redis') {
      await redis.kill();
      await more(b);
      await redis.start();
      await more(a);
    }
    await first.kill9();
    await more(b);
    await first.start();
    await more(a);
    await second.kill9();
    await second.start();
    await exact(jobs);
    for (const name of ['server-a', 'server-b'])
      expect(readFileSync(join(pair.folder, `${name}.log`), 'utf8')).not.toContain(redis.password);
  }, 300_000);
