import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { startContractServer } from './contract-server.ts';
import { waitFor } from './wait-for.ts';

/** Kills the daemon at every commit, every send and every start of a command's life, starts it again, and wants one process
 *  started, every byte once and a true end. The points enumerate themselves in a first run. */

const WHOLE = `${Array.from({ length: 20_000 }, (_, n) => `${n + 1}\n`).join('')}`;

interface Life {
  /** Ended by the fault point. */
  died: boolean;
  points: string[];
}

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
  const script = `import { runDaemon } from ${JSON.stringify(new URL('../src/main.ts', import.meta.url).href)};
    process.exitCode = await runDaemon({ flags: ${JSON.stringify(flags)}, env: process.env, json: true });`;
  const trace = join(home, 'trace');
  const start = (env: NodeJS.ProcessEnv) => {
    const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', script], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    return { child, exit: once(child, 'exit') as Promise<[number | null, string | null]> };
  };
  let { child, exit } = start({ AEGIS_CRASH_TRACE: trace, ...(crashAt ? { AEGIS_CRASH_AT: crashAt } : {}) });
  let died = false;
  const again = async (): Promise<void> => {
    const [, signal] = await exit;
    if (signal !== 'SIGKILL') return;
    died = true;
    ({ child, exit } = start({}));
  };
  const watching = again();
  try {
    const marker = join(home, 'started');
    await waitFor('enrolment', () => server.nodes.size > 0);
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
    return { died, points: existsSync(trace) ? readFileSync(trace, 'utf8').trim().split('\n') : [] };
  } finally {
    child.kill('SIGTERM');
    await Promise.race([watching, exit]);
    await exit;
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
  const broken: string[] = [];
  // test/integration/crash-points.test.ts passes all points of a command's life with the real server; here the short run takes
  // those of the enrolment and every sixth other one, the long run all.
  const left = chosen.filter((point, nth) => process.env.AEGIS_LONG || /register|Token/.test(point) || nth % 6 === 0);
  const worker = async (): Promise<void> => {
    for (let point = left.shift(); point; point = left.shift()) {
      try {
        const { died } = await live(point);
        if (!died && point.endsWith('#1')) broken.push(`${point}: was not passed`);
      } catch (error) {
        broken.push(`${point}: ${error}`);
      }
    }
  };
  await Promise.all([worker(), worker(), worker()]); // most of a life is waiting
  expect(broken).toEqual([]);
}, 300_000);
