import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { oneBuild } from './one-build.ts';

/** Runs the real bundle in a process of its own. Built once for each run of the tests. */

export interface Cli {
  /** Folder of the bundles. */
  readonly dist: string;
  /** An empty HOME. */
  readonly home: string;
  start(args: readonly string[], env?: Record<string, string>, cwd?: string): ChildProcess;
  run(args: readonly string[], more?: Surroundings): Promise<Ran>;
  /** The same for output that is text. */
  text(args: readonly string[], more?: Surroundings): Promise<Said>;
}
export interface BuiltCli extends Cli, Disposable {}

interface Surroundings {
  env?: Record<string, string>;
  stdin?: string;
  cwd?: string;
}

export interface Ran {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: Buffer;
  stderr: string;
}

export interface Said {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** What a refusal leaves: one sentence, and nothing else. */
export const refused = (sentence: string, code = 2): Said => ({ code, stdout: '', stderr: `aegis: ${sentence}\n` });

/** For all tests of a file: built before the first, gone after the last. */
export const cliOfFile = (): Cli => {
  let built: BuiltCli | null = null;
  beforeAll(async () => {
    built = await builtCli();
  });
  afterAll(() => built?.[Symbol.dispose]());
  const there = (): BuiltCli => {
    if (!built) throw new Error('the command line is built in beforeAll: no earlier than that');
    return built;
  };
  return {
    get dist() {
      return there().dist;
    },
    get home() {
      return there().home;
    },
    start: (...asked) => there().start(...asked),
    run: (...asked) => there().run(...asked),
    text: (...asked) => there().text(...asked),
  };
};

export const builtCli = async (): Promise<BuiltCli> => {
  const home = mkdtempSync(join(tmpdir(), 'aegis-cli-'));
  const dist = await oneBuild();
  const start: BuiltCli['start'] = (args, env = {}, cwd = undefined) =>
    spawn(process.execPath, [join(dist, 'aegis.cjs'), ...args], {
      ...(cwd === undefined ? {} : { cwd }),
      env: { PATH: process.env.PATH, HOME: home, TERM: 'xterm', ...env },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
  const run: BuiltCli['run'] = async (args, { env, stdin, cwd } = {}) => {
    const child = start(args, env, cwd);
    child.stdin?.end(stdin ?? '');
    return await ran(child);
  };
  return {
    dist,
    home,
    start,
    run,
    text: async (...asked) => {
      const { code, stdout, stderr } = await run(...asked);
      return { code, stdout: stdout.toString('utf8'), stderr };
    },
    [Symbol.dispose]: () => {
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
