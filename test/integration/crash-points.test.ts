import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { waitFor } from '../faults/wait.ts';
import type { Run } from '../fleet/api.ts';
import { type Fleet, startFleet } from '../fleet/fleet.ts';

/** Every commit and every send of one command's life is a point at which server or daemon dies, by `kill -9` of itself. The points
 *  are not listed here: a first life records each that it passes, so a new commit or send is covered the day it is written. A life
 *  meets every sixth of them, and one that its process did not pass has a life of its own. Under AEGIS_LONG each point has one; else the
 *  server dies only where something is first committed, or told without a commit: after each death a daemon waits for it. */

type Side = 'server' | 'daemon';

/** The test's own looking is no part of a command's life, and there is no end of it; nor is who is told to be there. The audit's commits have
 *  audit-crash.test.ts. */
const READING = /answer\.(showCommand|listExecutions|readLogs|apiListNodes)#|access\.audit|events\.(presence|mark)/;

const FIRST_COMMITS = /commit\..*#1$|answer\.pushStatus#1$/;

/** Enough on stdout to travel by itself, a little on stderr, over some 300 ms; a second start would show in the marker. */
const life = (fleet: Fleet, name: string) => {
  const marker = join(fleet.folder, `started-${name}`);
  const script = `echo x >> ${marker}; seq 1 20000; echo between >&2; sleep 0.2; seq 20001 40000; exit 3`;
  const stdout = Array.from({ length: 40_000 }, (_, index) => `${index + 1}\n`).join('');
  return { marker, script, stdout: createHash('sha256').update(stdout).digest('hex') };
};

/** As a careful client does: the same idempotency key until there is an answer. */
const submit = async (fleet: Fleet, script: string, key: string, revive: () => Promise<void>): Promise<Run> => {
  let run: Run | null = null;
  await waitFor('the command to be accepted', async () => {
    await revive();
    run = await fleet.api
      .submit({
        targets: 'web-1',
        output_limit_bytes: 0,
        command_type: 'RunCommand',
        payload: { cmd: script },
        idempotency_key: key,
      })
      .catch(() => null);
    return run !== null;
  });
  if (!run) throw new Error('not submitted');
  return run;
};

const processOf = (fleet: Fleet, side: Side) => {
  const process = side === 'server' ? fleet.server : fleet.nodes[0]?.daemon;
  if (!process) throw new Error(`no ${side}`);
  return process;
};

const restartWith = async (fleet: Fleet, side: Side, env: Record<string, string>): Promise<void> => {
  await processOf(fleet, side).kill9();
  await processOf(fleet, side).start(env);
};

const pointsOfOneLife = async (fleet: Fleet, side: Side): Promise<string[]> => {
  const trace = join(fleet.folder, `trace-${side}`);
  await restartWith(fleet, side, { AEGIS_CRASH_TRACE: trace });
  const before = existsSync(trace) ? readFileSync(trace, 'utf8').split('\n').length - 1 : 0;
  const { script } = life(fleet, `trace-${side}`);
  const run = await submit(fleet, script, `trace-${side}`, async () => undefined);
  await run.finished();
  await waitFor('the daemon to have forgotten the execution', () => executionsOnDisk(fleet) === 0);
  return readFileSync(trace, 'utf8')
    .split('\n')
    .slice(before)
    .filter((line) => line !== '' && !READING.test(line));
};

const executionsOnDisk = (fleet: Fleet): number => {
  const folder = join(fleet.nodes[0]?.dataDir ?? '', 'executions');
  return existsSync(folder) ? readdirSync(folder).length : 0;
};

test.each(['daemon', 'server'] as Side[])(
  'the %s dies at each commit and each send',
  async (side) => {
    await using fleet = await startFleet();
    const points = await pointsOfOneLife(fleet, side);
    const names = new Set(points.map((point) => point.replace(/#\d+$/, '')));
    // A life has at least: offer/accept, start, output, final report; each with a commit and a send, before and after.
    expect(names.size).toBeGreaterThanOrEqual(8);
    const chosen = points.filter((point) => side === 'daemon' || process.env.AEGIS_LONG || FIRST_COMMITS.test(point));
    expect(chosen.length).toBeGreaterThanOrEqual(10);
    let died = 0;
    let lives = 0;
    const apart = process.env.AEGIS_LONG ? chosen.length : 6;
    for (let strand = 0; strand < apart; strand++) {
      const left = chosen.filter((_, nth) => nth % apart === strand);
      while (left.length > 0) {
        const name = `${side}-${lives++}`;
        const { marker, script, stdout } = life(fleet, name);
        const deaths: string[] = [];
        const arm = () => (left[0] === undefined ? {} : { AEGIS_CRASH_AT: left[0] });
        /** Started again after a death, it is told the next point. */
        const revive = async (): Promise<void> => {
          while (!processOf(fleet, side).running) {
            const point = left.shift();
            if (point !== undefined) deaths.push(point);
            await processOf(fleet, side).start(arm());
          }
        };
        await restartWith(fleet, side, arm());
        const run = await submit(fleet, script, name, revive);
        await waitFor(`the end of the command, and that the daemon has forgotten it`, async () => {
          await revive();
          const { state } = await run.command().catch(() => ({ state: 'pending' }));
          return state !== 'pending' && state !== 'running' && executionsOnDisk(fleet) === 0;
        });
        // What is judged below is not to die.
        if (side === 'server' && left.length > 0) await restartWith(fleet, side, {});
        if (deaths.length === 0) left.shift();
        died += deaths.length;
        const where = `${name}, died at ${deaths.join(', ')}`;
        const executions = await run.finished();
        expect(
          executions.map(({ attempt, state, exit_code, output_verified, presumed }) => ({
            attempt,
            state,
            exit_code,
            output_verified,
            presumed,
          })),
          where,
        ).toEqual([{ attempt: 1, state: 'failed', exit_code: 3, output_verified: true, presumed: false }]);
        expect({ stdout: (await run.stored('stdout')).sha256, stderr: await run.text('stderr') }, where).toEqual({
          stdout,
          stderr: 'between\n',
        });
        expect(readFileSync(marker, 'utf8'), where).toBe('x\n');
        rmSync(marker);
      }
    }
    // Counts shift a little between lives (polls, coalesced sends), so the last few points may not come about.
    expect(died).toBeGreaterThanOrEqual(Math.floor(chosen.length * 0.8));
  },
  900_000,
);
