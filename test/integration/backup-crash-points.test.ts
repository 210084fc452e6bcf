import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../faults/wait.ts';
import { type BackupFleet, startBackupFleet } from '../fleet/backup-fleet.ts';
import { faultsIn } from '../fleet/database.ts';

/** Server and daemon die by `kill -9` of themselves at each commit, send and answer of a backup, as `bin/aegis` runs them. The points are not
 *  listed here: a first run records each that it passes. Under AEGIS_LONG all of them, else a few of each side. */

type Side = 'server' | 'daemon';
const OF_BACKUPS: Record<Side, RegExp> = {
  daemon: /backup|Backup|s3-/,
  server: /^server\.(before|after)-commit\.backups\.|answer\.[a-zA-Z]*Backup/,
};
/** What the test itself asks. */
const READING = /answer\.(list|show|apiList|backup)[A-Z]|answer\.putBackupConfig#|backups\.(config|probe)#/;
/** Told when there is time for it: not in every run, and not always at the same place of it. */
const AT_ANY_TIME = /Reports|reports|backup-configs|Progress|progress|RunLog|run-log/;
/** What a side passes last. */
const LAST: Record<Side, string> = {
  daemon: 'daemon.after-commit.backup-told#1',
  server: 'server.after-answer.endBackupRun#1',
};
const CHOSEN = process.env.AEGIS_LONG ? Number.POSITIVE_INFINITY : 2;

const processOf = ({ fleet }: BackupFleet, side: Side) => {
  const process = side === 'server' ? fleet.server : fleet.nodes[0]?.daemon;
  if (!process) throw new Error(`no ${side}`);
  return process;
};
const passed = (trace: string): string[] => (existsSync(trace) ? readFileSync(trace, 'utf8').trim().split('\n') : []);

let on: BackupFleet;
beforeAll(async () => {
  on = await startBackupFleet();
}, 120_000);
afterAll(() => on?.[Symbol.asyncDispose]());

test.each(['daemon', 'server'] as Side[])(
  'the %s dies in the middle of a backup, and it ends whole',
  async (side) => {
    const source = on.plant(side, 7);
    const again = async (env: Record<string, string> = {}): Promise<void> => {
      await processOf(on, side).kill9();
      await processOf(on, side).start(env);
    };
    /** Answers with how often the run was asked for: whoever asked a daemon that died before it was journaled asks again, as cron does. */
    const life = async (name: string, trace: string): Promise<number> => {
      const { pid } = processOf(on, side);
      let asked = 0;
      await waitFor(
        `${name} to be over`,
        async () => {
          if (!processOf(on, side).running) await processOf(on, side).start();
          const runs = await on.runs(name).catch(() => null);
          if (runs?.length !== 0) return runs?.every(({ state }) => state !== 'running') ?? false;
          asked++;
          await on.begin(name).catch(() => undefined); // it dies before there is an answer, or it has a run already
          return false;
        },
        90_000,
        () => on.fleet.nodes[0]?.daemon.log().slice(-3000) ?? '',
      );
      await waitFor(
        `the ${side} to be done with ${name}`,
        () => processOf(on, side).pid !== pid || !processOf(on, side).running || passed(trace).includes(LAST[side]),
      );
      return asked;
    };
    const first = join(on.fleet.folder, `trace-${side}`);
    await on.configure(`traced-${side}`, { sources: [source] });
    await again({ AEGIS_CRASH_TRACE: first });
    await life(`traced-${side}`, first);
    const points = passed(first).filter(
      (point) => OF_BACKUPS[side].test(point) && !READING.test(point) && point.endsWith('#1'),
    );
    expect(points).toContain(LAST[side]);
    expect(points.length).toBeGreaterThan(15);
    if (process.env.AEGIS_LONG) console.log(`the ${side}: ${points.length} points`);
    const each = Math.max(1, Math.ceil(points.length / CHOSEN));
    const faults: string[] = [];
    const lives: { point: string; name: string; asked: number }[] = [];
    for (const [nth, point] of points.entries()) {
      if (nth % each !== each >> 1) continue;
      const name = `${side}-${nth}`;
      const trace = `${first}-${nth}`;
      await on.configure(name, { sources: [source] });
      await again({ AEGIS_CRASH_AT: point, AEGIS_CRASH_TRACE: trace });
      const asked = await life(name, trace);
      if (!passed(trace).includes(point) && !AT_ANY_TIME.test(point)) faults.push(`${point}: not passed`);
      lives.push({ point, name, asked });
    }
    await again(); // what is judged below is not to die
    for (const { point, name, asked } of lives) {
      const runs = await on.runs(name);
      if (runs.length === 0 || runs.length > asked || runs.some(({ state }) => state !== 'completed'))
        faults.push(`${point}, asked for ${asked} times: ${JSON.stringify(runs)}`);
      faults.push(...(await on.faults(name, source)).map((fault) => `${point}: ${fault}`));
    }
    expect(faults).toEqual([]);
  },
  3_600_000,
);

test('nothing is left in spool and uploads', async () => {
  await waitFor('an empty spool', () => on.spooled().length === 0);
  await waitFor('no upload to be left', async () => (await on.openUploads()).length === 0, 60_000);
  expect(faultsIn(join(on.fleet.folder, 'server'))).toEqual([]);
}, 90_000);
