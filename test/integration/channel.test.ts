import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { type ManagedProcess, managedProcess } from '../faults/process.ts';
import { startTcpRelay, type TcpRelay } from '../faults/tcp-relay.ts';
import { waitFor } from '../faults/wait.ts';
import { aegis, cleanEnv, daemonArgv, type Fleet, startFleet } from '../fleet/fleet.ts';
import { endExecutionsBelow } from '../fleet/leftovers.ts';
import { startJob } from '../fleet/workload.ts';

/** Commands over the channel while their way breaks: every start once, every byte once. Real server, real daemon, a relay between. */

interface Stage extends AsyncDisposable {
  fleet: Fleet;
  relay: TcpRelay;
  daemon: ManagedProcess;
  dataDir: string;
  carrier(): Promise<string>;
}
const startStage = async (more: Readonly<Record<string, string>> = {}): Promise<Stage> => {
  const fleet = await startFleet({ startDaemons: false, env: more });
  const relay = await startTcpRelay(fleet.url);
  const dataDir = join(fleet.folder, 'over-the-channel');
  mkdirSync(dataDir, { mode: 0o700 });
  const env = cleanEnv(fleet.folder, more);
  const joinToken = await fleet.api.call('POST', '/api/v1/join-tokens', { uses: 1 });
  const daemon = managedProcess(
    'web-1',
    daemonArgv({ dataDir, server: relay.url, name: 'web-1' }),
    join(fleet.folder, 'over-the-channel.log'),
    { ...env, AEGIS_JOIN_TOKEN: (joinToken.body as { join_token: string }).join_token },
  );
  await daemon.start();
  return {
    fleet,
    relay,
    daemon,
    dataDir,
    carrier: async () => {
      const { stdout } = await promisify(execFile)(aegis, ['daemon', 'status', '--json', '--data-dir', dataDir], {
        env,
      });
      return (JSON.parse(stdout) as { carrier: string }).carrier;
    },
    [Symbol.asyncDispose]: async () => {
      await daemon[Symbol.asyncDispose]();
      await endExecutionsBelow(dataDir);
      await relay[Symbol.asyncDispose]();
      await fleet[Symbol.asyncDispose]();
    },
  };
};
const jobs = (stage: Stage, ...kinds: string[]) =>
  Promise.all(kinds.map((kind) => startJob(stage.fleet, 'web-1', kind)));
const faultsOf = async (started: Awaited<ReturnType<typeof jobs>>): Promise<(string | null)[]> =>
  (await Promise.all(started.map((job) => job.fault(120_000)))).filter((fault) => fault !== null);
const up = (stage: Stage) =>
  waitFor(
    'the channel to be up',
    async () => stage.relay.channels() > 0 && (await stage.carrier()) === 'ws',
    30_000,
    () => readFileSync(join(stage.fleet.folder, 'over-the-channel.log'), 'utf8').slice(-3000),
  );

test('commands of every kind go over the channel, over many keys', async () => {
  await using stage = await startStage({ AEGIS_CARRIER: 'ws', AEGIS_CHANNEL_ROTATION_MESSAGES: '7' });
  await up(stage);
  expect(await faultsOf(await jobs(stage, 'quick', 'silent', 'dripping', 'bursting', 'quick'))).toEqual([]);
  expect(stage.relay.channels()).toBe(1);
}, 120_000);

test('the channel is cut, blocked and let again, while commands run: they change to polls and back', async () => {
  await using stage = await startStage();
  await up(stage);
  const started = await jobs(stage, 'dripping', 'bursting', 'dripping');
  for (let times = 0; times < 3; times++) {
    stage.relay.blockChannels(true);
    await waitFor('polls', async () => (await stage.carrier()) === 'poll');
    started.push(...(await jobs(stage, 'quick')));
    await sleep(300);
    stage.relay.blockChannels(false);
    await up(stage);
    started.push(...(await jobs(stage, 'silent')));
    stage.relay.cut();
    await sleep(300);
    stage.relay.mend();
  }
  expect(await faultsOf(started)).toEqual([]);
  await up(stage);
}, 180_000);

test('the server dies and comes back, the daemon dies and comes back', async () => {
  await using stage = await startStage();
  await up(stage);
  const started = await jobs(stage, 'dripping', 'bursting', 'quick');
  await sleep(500);
  await stage.fleet.server.kill9();
  await sleep(500);
  await stage.fleet.server.start();
  started.push(...(await jobs(stage, 'quick')));
  await stage.daemon.kill9();
  await stage.daemon.start();
  expect(await faultsOf(started)).toEqual([]);
  await up(stage);
}, 180_000);

test('a half-open connection is found out, and work goes on', async () => {
  await using stage = await startStage({ AEGIS_CHANNEL_HEARTBEAT_SEC: '1' });
  await up(stage);
  const started = await jobs(stage, 'dripping');
  stage.relay.freeze();
  await up(stage);
  started.push(...(await jobs(stage, 'quick')));
  expect(await faultsOf(started)).toEqual([]);
}, 120_000);
