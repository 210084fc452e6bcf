import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { seededRandom } from '../faults/bad-network.ts';
import type { Run } from '../fleet/api.ts';
import { type Fleet, startFleet } from '../fleet/fleet.ts';

/** Faults while one command writes, the whole output compared afterwards: nothing lost, nothing doubled, started once. Under AEGIS_LONG more
 *  kills, and a longer cut. */

const SEED = Number(process.env.AEGIS_SEED ?? 20261120);
const KILLS = process.env.AEGIS_LONG ? 200 : 20;
/** The daemon's pauses between tries grow with it: it is silent for up to twice as long. */
const CUT_SEC = process.env.AEGIS_LONG ? 30 : 10;

/** Some seconds of numbered lines on stdout, a few on stderr; appends to a marker so that a second start would show. */
const talkative = (fleet: Fleet, rounds: number) => {
  const marker = join(fleet.folder, 'started');
  const script = `echo x >> ${marker}; for i in $(seq 1 ${rounds}); do seq -f "$i %05g" 1 2000; echo "e $i" >&2; sleep 0.1; done; printf end`;
  const stdout = Array.from({ length: rounds }, (_, i) =>
    Array.from({ length: 2000 }, (_, n) => `${i + 1} ${String(n + 1).padStart(5, '0')}\n`).join(''),
  ).join('');
  const stderr = Array.from({ length: rounds }, (_, i) => `e ${i + 1}\n`).join('');
  return { marker, script, stdout: `${stdout}end`, stderr };
};

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

const expectWhole = async (run: Run, expected: ReturnType<typeof talkative>): Promise<void> => {
  const executions = await run.finished(180_000);
  expect(
    executions.map(({ node, attempt, state, exit_code, output_verified }) => ({
      node,
      attempt,
      state,
      exit_code,
      output_verified,
    })),
  ).toEqual([{ node: 'web-1', attempt: 1, state: 'succeeded', exit_code: 0, output_verified: true }]);
  expect({ stdout: await run.stored('stdout'), stderr: await run.stored('stderr') }).toEqual({
    stdout: { bytes: expected.stdout.length, sha256: sha256(expected.stdout) },
    stderr: { bytes: expected.stderr.length, sha256: sha256(expected.stderr) },
  });
  expect(readFileSync(expected.marker, 'utf8')).toBe('x\n');
};

const submit = (fleet: Fleet, script: string) =>
  fleet.api.submit({ targets: 'web-1', output_limit_bytes: 0, command_type: 'RunCommand', payload: { cmd: script } });

const killing = async (fleet: Fleet, victims: ('daemon' | 'server')[], times: number): Promise<void> => {
  const random = seededRandom(SEED);
  for (let nth = 0; nth < times; nth++) {
    await sleep(20 + random() * 380); // at random: the point of the exercise, not synchronisation
    const victim = victims[Math.floor(random() * victims.length)];
    const process = victim === 'server' ? fleet.server : fleet.nodes[0]?.daemon;
    await process?.kill9();
    await process?.start();
  }
};

const killed = (who: string, victims: ('daemon' | 'server')[]): void =>
  test.concurrent(`kill -9 of ${who} ${KILLS} times`, async () => {
    await using fleet = await startFleet({ seed: SEED });
    const expected = talkative(fleet, KILLS * 5);
    const run = await submit(fleet, expected.script);
    await killing(fleet, victims, KILLS);
    await expectWhole(run, expected);
  }, 600_000);

// Each test has a fleet of its own, and mostly waits; all at once would be too much for two cores.
describe('cut or killed', () => {
  killed('the daemon', ['daemon']);
  killed('the server', ['server']);

  test.concurrent(`the network is cut for ${CUT_SEC} s while the command writes`, async () => {
    await using fleet = await startFleet();
    const expected = talkative(fleet, 50);
    const run = await submit(fleet, expected.script);
    await run.holds('stdout', 100_000);
    fleet.network.cut();
    await sleep(CUT_SEC * 1000);
    fleet.network.mend();
    await expectWhole(run, expected);
  }, 240_000);
});

describe('disturbed or killed', () => {
  killed('both', ['daemon', 'server']);

  test.concurrent('delayed, duplicated, reordered, requests and answers lost after the server had committed', async () => {
    await using fleet = await startFleet({ seed: SEED });
    const expected = talkative(fleet, 40);
    fleet.network.delayUpTo(150);
    fleet.network.duplicateEverything();
    fleet.network.loseAnswers(0.2);
    fleet.network.loseRequests(0.1);
    const run = await submit(fleet, expected.script);
    await run.holds('stdout', expected.stdout.length, 180_000);
    const { counts } = fleet.network;
    fleet.network.mend();
    await expectWhole(run, expected);
    expect({
      duplicated: counts.duplicated > 5,
      lostAnswers: counts.lostAnswers > 2,
      lostRequests: counts.lostRequests > 0,
    }).toEqual({
      duplicated: true,
      lostAnswers: true,
      lostRequests: true,
    });
  }, 240_000);

  test.concurrent('a cancel while daemon and server die reaches the command, and the state is true', async () => {
    await using fleet = await startFleet();
    const marker = join(fleet.folder, 'survived');
    const run = await submit(fleet, `trap '' TERM; (sleep 60; touch ${marker}) & wait; sleep 60; touch ${marker}`);
    await run.holds('stdout', 0);
    await fleet.nodes[0]?.daemon.kill9();
    await fleet.api.call('POST', `/api/v1/commands/${run.id}/cancel`, {});
    await fleet.server.kill9();
    await fleet.server.start();
    await fleet.nodes[0]?.daemon.start();
    const [execution] = await run.finished(60_000);
    expect(execution).toMatchObject({ state: 'cancelled' });
    expect(existsSync(marker)).toBe(false);
  }, 120_000);
});
