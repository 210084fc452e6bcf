import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { startContractServer } from './contract-server.ts';
import { brokenAt, type Life, mortalDaemon } from './mortal-daemon.ts';
import { waitFor } from './wait-for.ts';

/** Kills the daemon at every commit, every send and every start of a command's life, starts it again, and wants one process
 *  started, every byte once and a true end. The points enumerate themselves in a first run. */

const WHOLE = `${Array.from({ length: 20_000 }, (_, n) => `${n + 1}\n`).join('')}`;

const live = async (crashAt: string | null): Promise<Life> => {
  const home = mkdtempSync(join(tmpdir(), 'aegis-crash-'));
  await using server = await startContractServer();
  const flags = {
    data_dir: join(home, 'node'),
    server: server.url,
    join_token: server.joinToken,
    name: 'web-1',
    poll_wait_sec: 2,
    max_concurrent: 2,
    log_level: 'silent',
  };
  const daemon = mortalDaemon(home, flags, crashAt);
  try {
    const marker = join(home, 'started');
    await waitFor('enrolment', () => server.nodes.size > 0, 60_000); // two starts, from source
    const command = server.submit({ cmd: `echo x >> ${marker}; sleep 0.15; seq 1 20000; exit 3` });
    const cancelled = server.submit({ cmd: 'sleep 300' });
    const waiting = server.submit({ cmd: `echo y >> ${marker}` }); // for one of the two places
    await waitFor('both to run', () => command.acknowledged > 0 && cancelled.acknowledged > 0, 30_000);
    server.cancel(cancelled);
    await waitFor('both to end', () => command.state === 'failed' && cancelled.state === 'cancelled', 30_000);
    expect(server.output(command).toString() === WHOLE).toBe(true);
    expect(command.gaps).toEqual([]);
    await waitFor('the third to end', () => waiting.state === 'succeeded', 30_000);
    expect(readFileSync(marker, 'utf8').split('\n').sort()).toEqual(['', 'x', 'y']);
    const told = [...command.reports, ...waiting.reports].map((report) => report.state);
    expect(told.includes('lost')).toBe(false);
    expect(server.nodes.size).toBe(1);
    await waitFor('the folders to go', () => readdirSync(join(flags.data_dir, 'executions')).length === 0);
    return { died: daemon.died(), points: daemon.points() };
  } finally {
    await daemon[Symbol.asyncDispose]();
    rmSync(home, { recursive: true, force: true, maxRetries: 3 });
  }
};

test('stopped anywhere, the daemon keeps its promises', async () => {
  const { points } = await live(null);
  // The first time that each point is passed, and the second where it is another frame of the same kind.
  const chosen = points.filter(
    (point) => point.endsWith('#1') || /\.(accept|pushStatus|ackCommands|putOutput)#2$/.test(point),
  );
  for (const name of ['accept', 'handed', 'begun', 'free'])
    expect(chosen).toEqual(expect.arrayContaining([`daemon.before-commit.${name}#1`, `daemon.after-commit.${name}#1`]));
  for (const name of ['registerComplete', 'pollCommands', 'ackCommands', 'putOutput', 'pushStatus'])
    expect(chosen).toEqual(expect.arrayContaining([`daemon.before-send.${name}#1`, `daemon.after-send.${name}#1`]));
  // test/integration/crash-points.test.ts passes all points of a command's life with the real server; here the short run takes
  // those of the enrolment and every sixth other one, the long run all.
  const left = chosen.filter((point, nth) => process.env.AEGIS_LONG || /register|Token/.test(point) || nth % 6 === 0);
  expect(await brokenAt(left, live)).toEqual([]);
}, 300_000);
