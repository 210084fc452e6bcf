import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildCli } from '../build.ts';

/** Runs the real bundle in a process of its own. Built once for each test file, so that no test sees an old one; inside the package, so that
 *  node_modules is found. */
const here = dirname(fileURLToPath(import.meta.url));

export interface BuiltCli extends Disposable {
  /** Folder of the bundles. */
  dist: string;
  /** An empty HOME. */
  home: string;
  start(args: readonly string[], env?: Record<string, string>, cwd?: string): ChildProcess;
  run(args: readonly string[], more?: { env?: Record<string, string>; stdin?: string; cwd?: string }): Promise<Ran>;
}

export interface Ran {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: Buffer;
  stderr: string;
}

export const builtCli = async (): Promise<BuiltCli> => {
  const dist = join(here, '..', 'build', `test-${process.pid}-${Date.now()}`);
  const home = mkdtempSync(join(tmpdir(), 'aegis-cli-'));
  await buildCli(dist);
  const start: BuiltCli['start'] = (args, env = {}, cwd = undefined) =>
    spawn(process.execPath, [join(dist, 'aegis.cjs'), ...args], {
      ...(cwd === undefined ? {} : { cwd }),
      env: { PATH: process.env.PATH, HOME: home, TERM: 'xterm', ...env },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
  return {
    dist,
    home,
    start,
    run: async (args, { env, stdin, cwd } = {}) => {
      const child = start(args, env, cwd);
      child.stdin?.end(stdin ?? '');
      return await ran(child);
    },
    [Symbol.dispose]: () => {
      rmSync(dist, { recursive: true, force: true });
      rmSync(home, { recursive: true, force: true });
    },
  };
};

export const ran = (child: ChildProcess): Promise<Ran> => {
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout?.on('data', (piece: Buffer) => stdout.push(piece));
  child.stderr?.on('data', (piece: Buffer) => stderr.push(piece));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) =>
      resolve({ code, signal, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString('utf8') }),
    );
  });
};
