import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { waitFor } from '../faults/wait.ts';
import { freePort } from './free-port.ts';

/** A throwaway Redis on a free loopback port, with a password, that keeps nothing: Debian's `redis-server`. */
export interface Redis extends AsyncDisposable {
  /** With its password. */
  url: string;
  password: string;
  /** As by `kill -9`: its clients are cut. */
  kill(): Promise<void>;
  start(): Promise<void>;
}

export const startRedis = async (): Promise<Redis> => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-redis-'));
  const password = randomBytes(16).toString('hex');
  const port = await freePort();
  const config = join(folder, 'redis.conf');
  const lines = [
    'bind 127.0.0.1',
    `port ${port}`,
    `requirepass ${password}`,
    'save ""',
    'appendonly no',
    `dir ${folder}`,
  ];
  writeFileSync(config, `${lines.join('\n')}\n`, { mode: 0o600 });
  let child: ChildProcess | null = null;
  const start = async (): Promise<void> => {
    const started = spawn('redis-server', [config], { stdio: 'ignore' });
    child = started;
    let failed: string | undefined;
    started.once('error', () => {
      failed = "these tests need Redis: run 'apt-get install redis-server' (bin/setup --test does it)";
    });
    started.once('exit', (code) => {
      failed ??= code === null ? undefined : `redis-server ended with ${code}`;
    });
    await waitFor('Redis to answer', async () => {
      if (failed !== undefined) throw new Error(failed);
      return answers(port);
    });
  };
  const kill = async (): Promise<void> => {
    const running = child;
    child = null;
    if (!running || running.exitCode !== null || running.signalCode !== null) return;
    const gone = new Promise((resolve) => running.once('exit', resolve));
    running.kill('SIGKILL');
    await gone;
  };
  await start();
  return {
    url: `redis://:${password}@127.0.0.1:${port}`,
    password,
    kill,
    start,
    [Symbol.asyncDispose]: async () => {
      await kill();
      rmSync(folder, { recursive: true, force: true });
    },
  };
};

const answers = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = createConnection({ host: '127.0.0.1', port });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
