/** Runs the stock programs that tests compare with, and the little socket program. */
import { execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const execute = promisify(execFile);
const packageDir = fileURLToPath(new URL('..', import.meta.url));

/** Standard output; throws with standard error in the message. */
export const run = async (argv: readonly string[]): Promise<string> => {
  const [file = '', ...args] = argv;
  const { stdout } = await execute(file, args, { maxBuffer: 64 * 1024 * 1024, timeout: 30_000 });
  return stdout;
};

/** Loading, attaching and making namespaces and cgroups take it. */
export const needRoot = (): void => {
  if (process.getuid?.() !== 0) throw new Error('This test loads eBPF programs into the kernel: run bin/test as root.');
};

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** What bpftool says, run in a network namespace when `netns` is its path. */
export const bpftool = async (args: readonly string[], netns?: string): Promise<Json> => {
  const inside = netns === undefined ? [] : ['nsenter', `--net=${netns}`, '--'];
  const text = await run([...inside, 'bpftool', '--json', ...args]);
  return text.trim() === '' ? null : (JSON.parse(text) as Json);
};

export const until = async <T>(
  what: string,
  look: () => Promise<T | null | undefined | false> | T | null | undefined | false,
  deadlineMs = 20_000,
): Promise<T> => {
  const end = Date.now() + deadlineMs;
  for (;;) {
    const found = await look();
    if (found !== null && found !== undefined && found !== false) return found;
    if (Date.now() > end) throw new Error(`waited ${deadlineMs} ms in vain for ${what}`);
    await delay(2);
  }
};

let sockets: string | null = null;

/** Path of `sockets.c`, compiled. */
export const socketProgram = (): string => {
  if (sockets) return sockets;
  const source = join(packageDir, 'test', 'sockets.c');
  const folder = join(packageDir, 'build', 'test');
  mkdirSync(folder, { recursive: true });
  const path = join(folder, 'sockets');
  const build = `[ '${path}' -nt '${source}' ] || { cc -O1 -Wall -o '${path}.tmp' '${source}' && mv '${path}.tmp' '${path}'; }`;
  execFileSync('flock', [join(folder, '.lock'), 'sh', '-c', build], { stdio: 'inherit' });
  if (!existsSync(path)) throw new Error('sockets.c was not compiled');
  sockets = path;
  return path;
};

export interface Server extends AsyncDisposable {
  /** The line with which it said that it can be asked. */
  readonly said: string;
}

/** A server of the socket program (or another that says one line when it is ready), killed on dispose. */
export const serve = async (argv: readonly string[]): Promise<Server> => {
  const [file = '', ...args] = argv;
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  child.stdout.setEncoding('utf8');
  let text = '';
  child.stdout.on('data', (more: string) => {
    text += more;
  });
  const stop = async () => {
    child.kill('SIGKILL');
    await ended;
  };
  try {
    await until(`the first line of ${argv.join(' ')}`, () => text.includes('\n') || child.exitCode !== null);
    if (!text.startsWith('ok')) throw new Error(`${argv.join(' ')}: ${text}`);
  } catch (error) {
    await stop();
    throw error;
  }
  return { said: text.trim(), [Symbol.asyncDispose]: stop };
};
