import { randomUUID } from 'node:crypto';
import type { Execution } from '@aegis/protocol/commands/submission';
import { expect, test } from 'vitest';
import type { HttpRequest } from '../../packages/daemon/src/platform/http/door.ts';
import { waitFor } from '../faults/wait.ts';
import { faultsIn } from '../fleet/database.ts';
import { type HeldFleet, startHeldFleet } from '../fleet/in-process.ts';
import { ended, isTo, marked, never, only, quick, ran, reached, WAITS } from '../fleet/marked-command.ts';

/** Clocks that jump, nodes that reboot, words that come too late. Every execution ends in a true state, and nothing runs twice. */

const DAY = 24 * 3_600_000;
const WEEK_SEC = 7 * 24 * 3600;

/** One that runs, one that the node holds behind it, and two that wait on the server for a node that is away. */
const threeStages = async (fleet: HeldFleet) => {
  const node = fleet.node('web-1', { max_concurrent: 1 });
  const away = fleet.node('web-2');
  await node.start();
  await away.start();
  await away.stop();
  const running = await marked(fleet, node, WAITS);
  await reached(running, 'running');
  const delivered = await quick(fleet, node);
  await reached(delivered, 'delivered');
  return {
    node,
    away,
    running,
    delivered,
    patient: await quick(fleet, away, { ttl_sec: WEEK_SEC }),
    hasty: await quick(fleet, away, { ttl_sec: 3600 }),
  };
};

test.each([
  ['forward', DAY],
  ['back', -DAY],
] as const)("the server's clock jumps a day %s and returns", async (where, jump) => {
  await using fleet = await startHeldFleet();
  const { node, away, running, delivered, patient, hasty } = await threeStages(fleet);
  fleet.serverClock.offsetMs = jump;
  const during = await quick(fleet, node);
  expect(await ended(during)).toEqual(
    where === 'forward' ? never('refused', 'access.stale_directive') : never('expired', 'commands.expired'),
  );
  if (where === 'forward') expect(await ended(hasty)).toEqual(never('expired', null));
  expect([(await only(running)).state, (await only(delivered)).state, (await only(patient)).state]).toEqual([
    'running',
    'delivered',
    'queued',
  ]);
  fleet.serverClock.offsetMs = 0;
  running.go();
  expect(await ended(running)).toEqual(ran);
  expect(await ended(delivered)).toEqual(ran);
  await away.start();
  expect(await ended(patient)).toEqual(ran);
  expect(await ended(hasty)).toEqual(where === 'forward' ? never('expired', null) : ran);
  expect(await ended(await quick(fleet, node))).toEqual(ran);
  expect(faultsIn(fleet.server.dataDir)).toEqual([]);
});

test.each([
  ['forward', DAY],
  ['back', -DAY],
] as const)("the node's clock jumps a day %s and returns", async (where, jump) => {
  await using fleet = await startHeldFleet();
  const { node, running, delivered } = await threeStages(fleet);
  node.clock.offsetMs = jump;
  running.go();
  expect(await ended(running)).toEqual(ran);
  // Its turn comes while the node believes that its hour is over, or has not begun.
  expect(await ended(delivered)).toEqual(where === 'forward' ? never('expired', 'commands.expired') : ran);
  expect(await ended(await quick(fleet, node))).toEqual(
    where === 'forward' ? never('expired', 'commands.expired') : never('refused', 'access.stale_directive'),
  );
  const [refused] = await (await quick(fleet, node)).run.finished();
  expect(refused?.error?.message).toContain('clock'); // what to do about it
  node.clock.offsetMs = 0;
  expect(await ended(await quick(fleet, node))).toEqual(ran);
  expect(faultsIn(fleet.server.dataDir)).toEqual([]);
});

test.each([
  ['forward', DAY],
  ['back', -DAY],
] as const)('all clocks jump a day %s and return', async (where, jump) => {
  await using fleet = await startHeldFleet();
  const { node, away, running, delivered, patient, hasty } = await threeStages(fleet);
  for (const clock of [fleet.serverClock, node.clock, away.clock]) clock.offsetMs = jump;
  running.go();
  expect(await ended(running)).toEqual(ran);
  expect(await ended(delivered)).toEqual(where === 'forward' ? never('expired', 'commands.expired') : ran);
  const during = await quick(fleet, node);
  expect(await ended(during)).toEqual(ran);
  for (const clock of [fleet.serverClock, node.clock, away.clock]) clock.offsetMs = 0;
  await away.start();
  expect(await ended(patient)).toEqual(ran);
  expect((await ended(hasty)).started).toBe((await ended(hasty)).state === 'succeeded' ? 1 : 0);
  // What was issued in between did not raise the floor below which the node refuses.
  expect(await ended(await quick(fleet, node))).toEqual(ran);
  expect(faultsIn(fleet.server.dataDir)).toEqual([]);
});

test('an offer whose answer is lost while the clock is a day ahead comes again after the clock is set back', async () => {
  await using fleet = await startHeldFleet();
  const node = fleet.node('web-1');
  let lose = false;
  node.intercept = async (asked, send) => {
    const answer = await send(asked);
    if (!lose || !isTo(asked, '/v1/commands/poll') || !answer.body.includes('"directive"')) return answer;
    lose = false;
    fleet.serverClock.offsetMs = 0;
    throw new Error('the answer is lost');
  };
  await node.start();
  expect(await ended(await quick(fleet, node))).toEqual(ran); // a daemon's first poll asks for everything: not the one meant here
  lose = true;
  fleet.serverClock.offsetMs = DAY;
  node.clock.offsetMs = DAY;
  const one = await quick(fleet, node, { ttl_sec: WEEK_SEC });
  expect(await ended(one)).toEqual(ran);
  expect(lose).toBe(false);
});

test.each(['at-most-once', 'at-least-once'] as const)('the node reboots while a command runs: %s', async (delivery) => {
  await using fleet = await startHeldFleet();
  const node = fleet.node('web-1', { max_concurrent: 1 });
  await node.start({ bootId: randomUUID() });
  const cut = await marked(fleet, node, `echo before; ${WAITS}`, { delivery, retry_backoff_sec: 0 });
  await cut.run.holds('stdout', 'before\n'.length);
  const waiting = await quick(fleet, node);
  await reached(waiting, 'delivered');
  await node.crash();
  cut.go();
  await node.start({ bootId: randomUUID() });
  const executions = await cut.run.finished();
  const told = executions.map(({ attempt, state, error, presumed, report_signed }) => ({
    attempt,
    state,
    error: error?.code ?? null,
    presumed,
    report_signed,
  }));
  const lost = { attempt: 1, state: 'lost', error: 'commands.lost', presumed: false, report_signed: true };
  const again = { attempt: 2, state: 'succeeded', error: null, presumed: false, report_signed: true };
  expect(told).toEqual(delivery === 'at-most-once' ? [lost] : [lost, again]);
  expect(await ended(waiting)).toEqual(ran); // the node had it on its disk: started once, after the reboot
  expect(cut.started()).toBe(delivery === 'at-most-once' ? 1 : 2);
  expect(await cut.run.text('stdout')).toBe(delivery === 'at-most-once' ? 'before\n' : 'before\nwent\n');
  // Another reboot, with nothing under way, repeats nothing.
  await node.stop();
  await node.start({ bootId: randomUUID() });
  expect(await ended(await quick(fleet, node))).toEqual(ran);
  expect([cut.started(), waiting.started()]).toEqual([delivery === 'at-most-once' ? 1 : 2, 1]);
  expect(faultsIn(fleet.server.dataDir)).toEqual([]);
});

test.each([
  ['acknowledgement is lost', ['/v1/commands/ack', '/v1/commands/status'], 60_000, 'expired'],
  ['reports are lost', ['/v1/commands/status'], 3 * DAY, 'lost'],
] as const)(
  'the server gives an execution up because its %s: the node has the last word',
  async (_, paths, jump, presumed) => {
    await using fleet = await startHeldFleet();
    const node = fleet.node('web-1');
    await node.start();
    node.intercept = (asked, send) =>
      paths.some((path) => isTo(asked, path)) ? Promise.reject(new Error('lost')) : send(asked);
    const one = await marked(fleet, node, WAITS, { ttl_sec: 30 });
    await waitFor('the command to start', () => one.started() === 1);
    await reached(one, presumed === 'expired' ? 'queued' : 'delivered');
    fleet.serverClock.offsetMs = jump;
    await reached(one, presumed);
    expect(await only(one)).toMatchObject({ state: presumed, presumed: true });
    node.intercept = null;
    one.go();
    await reached(one, 'succeeded');
    expect(await ended(one)).toEqual(ran);
    expect(await one.run.text('stdout')).toBe('went\n');
    expect(faultsIn(fleet.server.dataDir)).toEqual([]);
  },
);

test('late words of attempt 1 during attempt 2 change neither', async () => {
  await using fleet = await startHeldFleet();
  const node = fleet.node('web-1');
  await node.start();
  const sent: HttpRequest[] = [];
  node.intercept = (asked, send) => {
    if (/\/(status|logs|output\/\w+)$/.test(new URL(asked.url).pathname)) sent.push({ ...asked, signal: undefined });
    return send(asked);
  };
  const twice = await marked(
    fleet,
    node,
    `[ $(wc -l < \${GO%.go}.started) = 2 ] || { sleep 0.3; seq 20000; exit 5; }; ${WAITS}`,
    {
      max_retries: 1,
      retry_backoff_sec: 0,
      output_limit_bytes: 0,
    },
  );
  await waitFor('attempt 2 to run', async () =>
    (await twice.run.executions()).some((one) => one.attempt === 2 && one.state === 'running'),
  );
  const before = await twice.run.executions();
  const late = sent.filter((asked) => asked.body && !Buffer.from(asked.body).includes('"attempt":2'));
  expect(late.length).toBeGreaterThanOrEqual(2); // running and failed at least
  for (const asked of [...late, ...late.reverse()]) {
    const { pathname, search } = new URL(asked.url);
    const answer = await fetch(`${fleet.server.url}${pathname}${search}`, {
      method: asked.method,
      headers: asked.headers,
      body: Buffer.from(asked.body ?? []),
    });
    expect(answer.status).toBe(200);
  }
  const shown = (all: Execution[]) =>
    all.map(({ attempt, state, exit_code, output }) => ({ attempt, state, exit_code, output }));
  expect(shown(await twice.run.executions())).toEqual(shown(before));
  twice.go();
  expect((await twice.run.finished()).map(({ attempt, state, exit_code }) => [attempt, state, exit_code])).toEqual([
    [1, 'failed', 5],
    [2, 'succeeded', 0],
  ]);
  expect(twice.started()).toBe(2);
  expect(faultsIn(fleet.server.dataDir)).toEqual([]);
});
