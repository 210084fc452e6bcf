import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, readFileSync } from 'node:fs';
import { waitFor } from './wait.ts';

/** A program under test as a real process, that can be killed as by `kill -9` and started again. Its log stays in one file. */
export interface ManagedProcess extends AsyncDisposable {
  readonly pid: number | undefined;
  readonly running: boolean;
  /** Starts it and waits for its ready line on standard output; null when it died first (a crash point may lie before it). */
  start(env?: Readonly<Record<string, string>>): Promise<Record<string, unknown> | null>;
  /** SIGKILL, and waits until it is gone. */
  kill9(): Promise<void>;
  /** SIGTERM, and waits for its exit code. */
  stop(): Promise<number | null>;
  /** Waits until it has gone by itself. */
  gone(deadlineMs?: number): Promise<void>;
  log(): string;
}

const READY_DEADLINE_MS = 30_000;

export const managedProcess = (
  name: string,
  argv: readonly string[],
  logFile: string,
  baseEnv: Readonly<Record<string, string>>,
): ManagedProcess => {
  let child: ChildProcess | null = null;
  let exit: Promise<number | null> = Promise.resolve(null);
  const log = createWriteStream(logFile, { flags: 'a' });

  const isRunning = () => child !== null && child.exitCode === null && child.signalCode === null;
  const signalAndWait = async (signal: NodeJS.Signals): Promise<number | null> => {
    if (isRunning()) child?.kill(signal);
    return exit;
  };

  return {
    get pid() {
      return child?.pid;
    },
    get running() {
      return isRunning();
    },
    start: async (env = {}) => {
      if (isRunning()) throw new Error(`${name} runs already`);
      const [file = '', ...args] = argv;
      const started = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...baseEnv, ...env } });
      child = started;
      exit = new Promise((resolve) => started.once('exit', (code) => resolve(code)));
      let out = '';
      started.stdout?.on('data', (bytes: Buffer) => {
        if (!out.includes('\n')) out += bytes.toString('utf8');
      });
      started.stderr?.pipe(log, { end: false });
      await waitFor(
        `${name} to be ready`,
        () => out.includes('\n') || !isRunning(),
        READY_DEADLINE_MS,
        () => readFileSync(logFile, 'utf8').slice(-4000),
      );
      return out.includes('\n') ? (JSON.parse(out.slice(0, out.indexOf('\n'))) as Record<string, unknown>) : null;
    },
    kill9: async () => {
      await signalAndWait('SIGKILL');
    },
    stop: () => signalAndWait('SIGTERM'),
    gone: async (deadlineMs = 30_000) => {
      await waitFor(`${name} to be gone`, () => !isRunning(), deadlineMs);
    },
    log: () => readFileSync(logFile, 'utf8'),
    [Symbol.asyncDispose]: async () => {
      await signalAndWait('SIGKILL');
      log.end();
    },
  };
};
