import { createHash, randomUUID } from 'node:crypto';
import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Execution } from '@aegis/protocol/commands/submission';
import Database from 'better-sqlite3';
import { describe, expect, test } from 'vitest';
import type { HttpRequest } from '../../packages/daemon/src/platform/http/door.ts';
import { waitFor } from '../faults/wait.ts';
import type { Run } from '../fleet/api.ts';
import { faultsIn } from '../fleet/database.ts';
import { type HeldFleet, type HeldNode, markOf, startHeldFleet } from '../fleet/in-process.ts';

/** Clocks that jump, nodes that reboot, words that come too late. Every execution ends in a true state, nothing runs twice: each
 *  command adds a line to a marker when it starts, and those that `waits` go on only when they are told to. */

const DAY = 24 * 3_600_000;
const WEEK_SEC = 7 * 24 * 3600;

interface Marked {
  run: Run;
  started(): number;
  go(): void;
  /** For a second place to wait at. */
  goTwice(): void;
}
const marked = async (fleet: HeldFleet, node: HeldNode, then: string, more: object = {}): Promise<Marked> => {
  const base = join(fleet.folder, randomUUID());
  const cmd = `echo x >> ${base}.started; GO=${base}.go; ${then}`;
  const payload = { cmd, env: markOf(node.dataDir) };
  const run = await fleet.api.submit({ targets: node.name, command_type: 'RunCommand', payload, ...more });
  return {
    run,
    started: () => (existsSync(`${base}.started`) ? readFileSync(`${base}.started`, 'utf8').split('\n').length - 1 : 0),
    go: () => writeFileSync(`${base}.go`, ''),
    goTwice: () => writeFileSync(`${base}.go.2`, ''),
  };
};
const isTo = (asked: HttpRequest, path: string): boolean => new URL(asked.url).pathname === path;
const WAITS = 'until [ -e $GO ]; do sleep 0.05; done; echo went';
const quick = (fleet: HeldFleet, node: HeldNode, more: object = {}) => marked(fleet, node, 'echo done', more);

const only = async ({ run }: Marked): Promise<Execution> => {
  const [execution, ...others] = await run.executions();
  if (!execution || others.length > 0) throw new Error(`expected one execution, found ${others.length + 1}`);
  return execution;
};
const reached = (one: Marked, state: string): Promise<void> =>
  waitFor(
    `the state ${state}`,
    async () => (await one.run.executions()).at(-1)?.state === state,
    30_000,
    () => one.run.id,
  );
const ended = async (one: Marked) => {
  await one.run.finished();
  const { state, presumed, attempt, error } = await only(one);
  return { state, presumed, attempt, error: error?.code ?? null, started: one.started() };
};
const ran = { state: 'succeeded', presumed: false, attempt: 1, error: null, started: 1 };
const never = (state: string, error: string | null) => ({ state, presumed: false, attempt: 1, error, started: 0 });

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

/** The server as it was at an earlier moment: its database is put back while it is down. */
const backUp = (fleet: HeldFleet): (() => Promise<void>) => {
  const file = join(fleet.server.dataDir, 'aegis.db');
  const copy = join(fleet.folder, randomUUID());
  const db = new Database(file, { readonly: true });
  db.prepare('VACUUM INTO ?').run(copy);
  db.close();
  return async () => {
    await fleet.server.running.close();
    for (const suffix of ['', '-wal', '-shm']) rmSync(`${file}${suffix}`, { force: true });
    copyFileSync(copy, file);
    await fleet.server.restart();
  };
};
const forgotten = (node: HeldNode): Promise<void> =>
  waitFor('the node to have told everything', () => {
    const status = node.daemon?.status();
    return (
      status?.running === 0 && status.unreported === 0 && readdirSync(join(node.dataDir, 'executions')).length === 0
    );
  });
/** What the log says of stdout: runs of bytes and gaps, by offset. */
const logOf = async (fleet: HeldFleet, { run }: Marked) => {
  const { text } = await fleet.server.as('viewer').raw('GET', `/api/v1/commands/${run.id}/logs?stream=stdout`, {
    headers: { accept: 'application/x-ndjson' },
  });
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map(
      (line) =>
        JSON.parse(line) as {
          type: string;
          offset: number;
          gap: number;
          reason: string;
          data: string;
          encoding: 'utf8' | 'base64';
        },
    )
    .filter(({ type }) => type === 'chunk' || type === 'gap');
};
const EMPTIED = 'freed_after_ack';

describe('the server is restored from a backup that is older than its node', () => {
  test('executions that it does not know: they end undisturbed, nothing of them is kept, and new ones work', async () => {
    await using fleet = await startHeldFleet();
    const node = fleet.node('web-1');
    await node.start();
    const restore = backUp(fleet);
    const unknown = await marked(fleet, node, `seq 1000; ${WAITS}; seq 100000`);
    const finished = await quick(fleet, node);
    await unknown.run.holds('stdout', 3893);
    await ended(finished);
    await restore();
    unknown.go();
    await forgotten(node);
    expect((await fleet.api.call('GET', `/api/v1/commands/${unknown.run.id}`)).status).toBe(404);
    expect(await ended(await quick(fleet, node))).toEqual(ran);
    expect([unknown.started(), finished.started()]).toEqual([1, 1]);
    expect(faultsIn(fleet.server.dataDir)).toEqual([]);
  });

  test('executions that it offered and does not know when the acknowledgement comes: the node goes on asking for work', async () => {
    await using fleet = await startHeldFleet();
    const node = fleet.node('web-1');
    await node.start();
    const restore = backUp(fleet);
    node.intercept = (asked, send) =>
      isTo(asked, '/v1/commands/ack') ? Promise.reject(new Error('lost')) : send(asked);
    const unknown = await quick(fleet, node);
    await waitFor('the command to start', () => unknown.started() === 1);
    await restore();
    node.intercept = null;
    expect(await ended(await quick(fleet, node))).toEqual(ran);
    expect(unknown.started()).toBe(1);
  });

  test.each([
    ['the node still knows how they ended', {}, 'succeeded', null, 2],
    ['the node does not know it any more', { journal_kept_reports: 0 }, 'lost', 'commands.lost', null],
  ] as const)('executions that it believes queued: %s', async (_, flags, state, error, bytes) => {
    await using fleet = await startHeldFleet();
    const node = fleet.node('web-1', flags);
    await node.start();
    await node.stop();
    const one = await marked(fleet, node, 'printf ab');
    const restore = backUp(fleet);
    await node.start();
    expect(await ended(one)).toEqual(ran);
    await forgotten(node);
    await restore();
    expect((await only(one)).state).toBe('queued');
    expect(await ended(one)).toEqual({ ...ran, state, error });
    expect(await only(one)).toMatchObject({ report_signed: true, output: { stdout: { bytes } } });
    expect(await logOf(fleet, one)).toMatchObject(
      bytes === null ? [] : [{ type: 'gap', offset: 0, gap: bytes, reason: EMPTIED }],
    );
    expect(faultsIn(fleet.server.dataDir)).toEqual([]);
  });

  test('executions that it believes under way, ended and freed since: the node is asked, without a restart of its own', async () => {
    await using fleet = await startHeldFleet();
    const node = fleet.node('web-1');
    await node.start();
    const held = await marked(fleet, node, WAITS);
    const ending = await marked(fleet, node, WAITS);
    const cancelled = await marked(fleet, node, WAITS);
    for (const one of [held, ending, cancelled]) await reached(one, 'running');
    const restore = backUp(fleet);
    ending.go();
    await fleet.api.call('POST', `/api/v1/commands/${cancelled.run.id}/cancel`, {});
    await ended(ending);
    await waitFor('the cancel to be confirmed', async () => (await only(cancelled)).presumed === false);
    await restore();
    expect(await ended(ending)).toEqual(ran);
    expect(await ended(cancelled)).toEqual({ ...ran, state: 'cancelled' });
    expect((await only(held)).state).toBe('running');
    held.go();
    expect(await ended(held)).toEqual(ran);
    expect(await held.run.text('stdout')).toBe('went\n');
    expect(faultsIn(fleet.server.dataDir)).toEqual([]);
  });

  test('offsets below what the node has freed: a gap says so, all else is there', async () => {
    await using fleet = await startHeldFleet();
    const node = fleet.node('web-1', { segment_bytes: 65_536, spool_bytes: 1_048_576 });
    await node.start();
    const one = await marked(
      fleet,
      node,
      `seq -w 100000; until [ -e $GO ]; do sleep 0.05; done; seq -w 100001 300000; ${WAITS.replace('$GO', '$GO.2')}`,
      {
        output_limit_bytes: 0,
      },
    );
    await one.run.holds('stdout', 700_000);
    const restore = backUp(fleet);
    one.go();
    await one.run.holds('stdout', 2_100_000);
    await restore();
    expect((await only(one)).output.stdout.next).toBe(700_000);
    one.goTwice();
    expect(await ended(one)).toEqual(ran);
    const whole = Buffer.from(
      `${Array.from({ length: 300_000 }, (_, at) => `${String(at + 1).padStart(6, '0')}\n`).join('')}went\n`,
    );
    const log = await logOf(fleet, one);
    const gaps = log.filter(({ type }) => type === 'gap');
    expect(gaps).toMatchObject([{ offset: 700_000, reason: EMPTIED }]);
    // Every byte outside the gap is the command's own, and what follows the gap lies on the node's own segment.
    let at = 0;
    for (const part of log) {
      expect(part.offset).toBe(at);
      if (part.type === 'gap') at += part.gap;
      else {
        const bytes = Buffer.from(part.data, part.encoding);
        expect(bytes.equals(whole.subarray(at, at + bytes.length))).toBe(true);
        at += bytes.length;
      }
    }
    expect(at).toBe(whole.length);
    expect(await only(one)).toMatchObject({
      output_verified: null,
      output: {
        stdout: {
          bytes: whole.length,
          missing: gaps[0]?.gap,
          sha256: createHash('sha256').update(whole).digest('hex'),
        },
      },
    });
    expect(faultsIn(fleet.server.dataDir)).toEqual([]);
  });
});
