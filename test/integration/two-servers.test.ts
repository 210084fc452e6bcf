import { execFileSync, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type PostgresCluster, startPostgres } from '../../packages/server/test/postgres.ts';
import { startTcpRelay } from '../faults/tcp-relay.ts';
import { waitFor } from '../faults/wait.ts';
import type { Api } from '../fleet/api.ts';
import { aegis, cleanEnv } from '../fleet/fleet.ts';
import { type Redis, startRedis } from '../fleet/redis.ts';
import { type ServerProcesses, startServers, waitOnline } from '../fleet/server-processes.ts';
import { type Job, startJob } from '../fleet/workload.ts';

/** Several server processes on one PostgreSQL: nodes are at one, operators call another; with notifications alone, and with Redis. */

let cluster: PostgresCluster;
let redis: Redis;
beforeAll(async () => {
  [cluster, redis] = await Promise.all([startPostgres(), startRedis()]);
});
afterAll(async () => {
  await redis[Symbol.asyncDispose]();
  await cluster[Symbol.asyncDispose]();
});

const serversWith = async (bus: 'notifications' | 'redis', count: number): Promise<ServerProcesses> =>
  startServers({
    count,
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
    await using pair = await serversWith(bus, 2);
    const [{ api: a, url: urlOfA }, { api: b, url: urlOfB }] = pair.servers;
    const nodes = [pair.node('web-1', urlOfA), pair.node('web-2', urlOfB)];
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

    // Cancelled at B: the node, which is at A, is told and ends it.
    const endless = await a.submit({ targets: 'web-1', ...wholly('echo begun; exec sleep 1000') });
    await endless.holds('stdout', 6);
    expect((await b.call('POST', `/api/v1/commands/${endless.id}/cancel`)).status).toBeLessThan(300);
    await waitFor('the node to end it', async () => {
      const [execution] = await endless.executions();
      return execution?.state === 'cancelled' && !execution.presumed;
    });
  }, 180_000);

for (const bus of ['notifications', 'redis'] as const)
  test(`${bus}: three servers, from one to another of which nodes are thrown; database, Redis and a server die: nothing is lost or doubled`, async () => {
    await using fleet = await serversWith(bus, 3);
    const { servers, folder } = fleet;
    const urlOf = (at: number): string => servers[at % 3]?.url ?? '';
    await using relays = new AsyncDisposableStack();
    const nodes = await Promise.all(
      [0, 1, 2].map(async (at) => {
        const relay = relays.use(await startTcpRelay(urlOf(at)));
        return { relay, ...fleet.node(`web-${at}`, relay.url) };
      }),
    );
    await Promise.all(nodes.map(({ daemon }) => daemon.start()));
    const [{ api: a }, { api: b, process: second }] = servers;
    await waitOnline(b, 3);
    const jobs: Job[] = [];
    const more = async (api: Api, ...kinds: string[]) => {
      for (const { name } of nodes) for (const kind of kinds) jobs.push(await startJob({ folder, api }, name, kind));
    };
    const channelsUp = () =>
      waitFor('every node to be connected', () => nodes.every(({ relay }) => relay.channels() > 0), 10_000);

    await channelsUp();
    await more(a, 'quick', 'dripping');
    // The second dies; a load balancer sends its node to the third.
    await second.kill9();
    nodes[1]?.relay.retarget(urlOf(2));
    const moved = await startJob({ folder, api: a }, 'web-1', 'quick');
    expect(await moved.fault(10_000)).toBeNull();
    await channelsUp();
    await second.start();

    await cluster.restart();
    await more(b, 'quick');
    if (bus === 'redis') {
      await redis.kill();
      await more(a, 'quick');
      await redis.start();
    }
    // Every node to the next server, again and again.
    await more(b, 'dripping', 'bursting');
    for (let round = 0; round < 4; round++) {
      for (const [at, { relay }] of nodes.entries()) relay.retarget(urlOf(at + round));
      await sleep(500);
    }
    await exact(jobs);
    for (const name of ['server-a', 'server-b', 'server-c'])
      expect(readFileSync(join(folder, `${name}.log`), 'utf8')).not.toContain(redis.password);
  }, 300_000);
