import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { runHook } from './hooks.ts';

/** Hooks as they should not be. */

const stage = () => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-hooks-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const notes = join(folder, 'notes');
  const run = (script: string, more: { timeout_sec?: number; user?: string } = {}) =>
    runHook(
      { argv: ['sh', '-c', script], timeout_sec: 60, ...more },
      { env: { AEGIS_RUN_ID: 'r' }, signal: new AbortController().signal, notes },
    );
  return { folder, run, notes };
};
/** Ended by its test. */
const pidIn = (path: string): number => {
  const pid = Number(readFileSync(path, 'utf8'));
  onTestFinished(() => {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // ended by itself
    }
  });
  return pid;
};

test('one that leaves a daemon with its pipes behind is over soon after it ended, and went well', async () => {
  const { folder, run, notes } = stage();
  const pid = join(folder, 'pid');
  const outcome = await run(
    `setsid sh -c 'echo $$ > ${pid}; trap "" TERM; exec sleep 600' & until [ -s ${pid} ]; do sleep 0.02; done; echo done`,
  );
  pidIn(pid);
  expect(outcome).toMatchObject({ exit: 0, timedOut: false, output: 'done\n' });
  expect(readdirSync(notes)).toEqual([]);
});

test('its environment is what it needs and nothing of the daemon', async () => {
  vi.stubEnv('AEGIS_JOIN_TOKEN', 'secret');
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'secret');
  onTestFinished(() => void vi.unstubAllEnvs());
  const { output } = await stage().run('env; pwd');
  const names = output.split('\n').flatMap((line) => (line.includes('=') ? [line.split('=')[0]] : []));
  expect(names.filter((name) => !['PATH', 'LANG', 'PWD', 'SHLVL', '_', 'OLDPWD'].includes(name ?? ''))).toEqual([
    'AEGIS_RUN_ID',
  ]);
  expect(output).not.toContain('secret');
});

test('another user gets nothing of ours: no groups, no files', async () => {
  const { output } = await stage().run('id -u; id -g; id -G; echo $HOME $USER', { user: 'nobody' });
  const [uid, gid, groups, home] = output.split('\n');
  expect([uid, groups]).toEqual(['65534', gid]);
  expect(home).toMatch(/ nobody$/);
});
