import { execFileSync, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { managedProcess } from '../faults/process.ts';
import { waitFor } from '../faults/wait.ts';
import type { Run } from '../fleet/api.ts';
import { aegis, cleanEnv, type Fleet, startFleet } from '../fleet/fleet.ts';
import { endMarked, marked, markOf } from '../fleet/in-process.ts';

/** Killed means gone: whatever a command forked is found by a mark in its environment and must have left /proc within
 *  timeout + grace + 2 s, whether the daemon lives or not. These times are the promise itself, not a measure of speed. */

const TIMEOUT_SEC = 2;
const GRACE_SEC = 1;
const SLACK_MS = 2000;

/** Forks, double-forks into sessions of their own, ignores what can be ignored, stops members, closes no pipe. */
const STUBBORN = `
trap '' TERM HUP INT
sleep 1000 &
(setsid sh -c 'sleep 1000 & (setsid sleep 1000 &); sleep 1000' &)
(setsid sh -c 'trap "" TERM; (setsid sh -c "trap \\"\\" TERM; sleep 1000; sleep 1000" &); sleep 1000' &)
(sh -c 'kill -STOP $$; sleep 1000' &)
(nohup sleep 1000 >/dev/null 2>&1 &)
echo ready
sleep 1000`;
const MEMBERS = 10;

let fleet: Fleet;
beforeAll(async () => {
  fleet = await startFleet({ daemonFlags: ['--max-concurrent', '8'] });
});
afterAll(() => fleet[Symbol.asyncDispose]());

const daemon = () => {
  const process = fleet.nodes[0]?.daemon;
  if (!process) throw new Error('no daemon');
  return process;
};

interface Tree {
  mark: string;
  run: Run;
}
const grow = async (timeoutSec: number): Promise<Tree> => {
  const mark = randomUUID();
  const run = await fleet.api.submit({
    targets: 'web-1',
    command_type: 'RunCommand',
    payload: { cmd: STUBBORN, env: markOf(mark), timeout_sec: timeoutSec, grace_sec: GRACE_SEC },
  });
  await waitFor(
    'the whole tree',
    () => marked(mark).length >= MEMBERS,
    20_000,
    () => `${marked(mark).length} processes`,
  );
  return { mark, run };
};

/** Wall time at which the last of them had gone. */
const goneAt = async (mark: string): Promise<number> => {
  await waitFor(
    'the tree to be gone',
    () => marked(mark).length === 0,
    30_000,
    () =>
      marked(mark)
        .map((pid) => readFileSync(`/proc/${pid}/stat`, 'utf8'))
        .join(''),
  );
  return Date.now();
};

const only = async (run: Run) => {
  const [execution] = await run.finished();
  if (!execution) throw new Error('no execution');
  return execution;
};
const startedAt = async (run: Run): Promise<number> => Date.parse((await only(run)).started_at ?? '');
const killed = {
  attempt: 1,
  presumed: false,
  exit_code: null,
  signal: 'SIGKILL',
  tree_empty: true,
  report_signed: true,
};

test('by timeout', async () => {
  const { mark, run } = await grow(TIMEOUT_SEC);
  const gone = await goneAt(mark);
  expect(await only(run)).toMatchObject({ ...killed, state: 'timed_out' });
  expect(gone - (await startedAt(run))).toBeLessThan((TIMEOUT_SEC + GRACE_SEC) * 1000 + SLACK_MS);
  expect(await run.text('stdout')).toBe('ready\n');
});

test('by cancel, while another command of the same node goes on', async () => {
  const other = await grow(600);
  const { mark, run } = await grow(600);
  const asked = Date.now();
  expect((await fleet.api.call('POST', `/api/v1/commands/${run.id}/cancel`, {})).status).toBe(200);
  const gone = await goneAt(mark);
  expect(gone - asked).toBeLessThan(GRACE_SEC * 1000 + SLACK_MS);
  await waitFor("the node's own word", async () => (await only(run)).presumed === false);
  expect(await only(run)).toMatchObject({ ...killed, state: 'cancelled' });
  expect(marked(other.mark).length).toBeGreaterThanOrEqual(MEMBERS);
  await fleet.api.call('POST', `/api/v1/commands/${other.run.id}/cancel`, {});
  await goneAt(other.mark);
});

test('by timeout while the daemon is dead', async () => {
  const { mark, run } = await grow(TIMEOUT_SEC);
  await daemon().kill9();
  const gone = await goneAt(mark);
  await daemon().start();
  expect(await only(run)).toMatchObject({ ...killed, state: 'timed_out' });
  expect(gone - (await startedAt(run))).toBeLessThan((TIMEOUT_SEC + GRACE_SEC) * 1000 + SLACK_MS);
});

test('by a cancel that comes while the daemon is dead, as soon as it is back', async () => {
  const { mark, run } = await grow(600);
  await daemon().kill9();
  await fleet.api.call('POST', `/api/v1/commands/${run.id}/cancel`, {});
  await daemon().start();
  const back = Date.now();
  const gone = await goneAt(mark);
  expect(gone - back).toBeLessThan(GRACE_SEC * 1000 + SLACK_MS);
  await waitFor("the node's own word", async () => (await only(run)).presumed === false);
  expect(await only(run)).toMatchObject({ ...killed, state: 'cancelled' });
});

test('a left-over that holds the pipes of an ended command goes with a cancel; who got the recycled pid does not', async () => {
  // A pid namespace of its own, in which the next pid can be chosen without touching the machine's.
  const dataDir = join(fleet.folder, 'spaced');
  const token = (await fleet.api.call('POST', '/api/v1/join-tokens', {})).body as { join_token: string };
  const start = [aegis, 'daemon', 'start', '--data-dir', dataDir, '--server', fleet.url, '--name', 'spaced', '--json'];
  await using spaced = managedProcess(
    'the daemon in its namespace',
    // A shell as init, so that orphans are reaped.
    ['unshare', '--pid', '--fork', '--mount-proc', '--kill-child', 'sh', '-c', '"$@"; exit $?', 'sh', ...start],
    join(fleet.folder, 'spaced.log'),
    cleanEnv(fleet.folder, { AEGIS_JOIN_TOKEN: token.join_token, AEGIS_DRAIN_SEC: '600' }),
  );
  expect(await spaced.start(), spaced.log()).not.toBe(null);
  const init = readFileSync(`/proc/${spaced.pid}/task/${spaced.pid}/children`, 'utf8').trim();
  const within = ['--target', init, '--pid', '--mount', 'sh', '-c'];
  const mark = randomUUID();
  const stranger = randomUUID();
  const run = await fleet.api.submit({
    targets: 'spaced',
    command_type: 'RunCommand',
    payload: { cmd: "echo $$; (trap '' TERM; setsid sleep 1000 &); exit 3", env: markOf(mark), grace_sec: GRACE_SEC },
  });
  await run.holds('stdout', 2);
  const pid = Number(await run.text('stdout'));
  await waitFor('the left-over alone', () => marked(mark).length === 1);
  const take = `for try in $(seq 200); do echo $(($1 - 1)) > /proc/sys/kernel/ns_last_pid; sleep 1000 & [ $! = $1 ] && break; kill -9 $!; done; echo $!; wait`;
  const thief = spawn('nsenter', [...within, take, 'sh', String(pid)], {
    env: { ...cleanEnv(fleet.folder), ...markOf(stranger) },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    const told = await new Promise<string>((resolve) =>
      thief.stdout.once('data', (bytes: Buffer) => resolve(bytes.toString())),
    );
    expect(told).toBe(`${pid}\n`);
    await fleet.api.call('POST', `/api/v1/commands/${run.id}/cancel`, {});
    await goneAt(mark);
    await waitFor("the node's own word", async () => (await only(run)).presumed === false);
    expect(await only(run)).toMatchObject({ state: 'failed', exit_code: 3, tree_empty: true });
    expect(
      execFileSync('nsenter', [...within, `kill -0 ${pid} && tr '\\0' ' ' < /proc/${pid}/cmdline`], {
        encoding: 'utf8',
      }),
    ).toBe('sleep 1000 ');
  } finally {
    await endMarked(stranger);
  }
});
