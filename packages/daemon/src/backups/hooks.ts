import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Hook } from '@aegis/protocol/backups/config';
import { AegisError } from '@aegis/protocol/errors';

/** Commands of a configuration around its run: argument vectors without a shell, each in a process group of its own that ends with its time
 *  or with the run. */

export interface HookOutcome {
  argv: readonly string[];
  /** 0: it went well. */
  exit: number | null;
  signal: string | null;
  timedOut: boolean;
  /** The end of what it wrote to stdout and stderr. */
  output: string;
}

const KILL_AFTER_MS = 5000;
const OUTPUT_CHARS = 2000;
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** @throws AegisError backups.hook_failed when it cannot be started or does not end well; the signal's reason when that ended it */
export const runHook = async (
  hook: Hook,
  { env, signal }: { env: Readonly<Record<string, string>>; signal: AbortSignal },
): Promise<HookOutcome> => {
  signal.throwIfAborted();
  const outcome = await execute(hook, env, signal);
  signal.throwIfAborted();
  const { exit, timedOut, signal: by, output } = outcome;
  if (exit === 0 && !timedOut) return outcome;
  const how = timedOut
    ? `was stopped after ${hook.timeout_sec} s`
    : exit === null
      ? `was ended by ${by}`
      : `exited with ${exit}`;
  const said = output.trim().split('\n').at(-1) ?? '';
  throw new AegisError(
    'backups.hook_failed',
    `The command '${hook.argv[0]}' ${how}${said === '' ? '' : `: ${said.slice(0, 500)}`}. Run it by hand on this node to see why.`,
  );
};

const execute = (hook: Hook, env: Readonly<Record<string, string>>, signal: AbortSignal): Promise<HookOutcome> =>
  new Promise((resolve, reject) => {
    const [program = '', ...args] = hook.argv;
    const account = hook.user === undefined ? null : accountOf(hook.user);
    const home = account ? { HOME: account.home, USER: account.name, LOGNAME: account.name } : {};
    const child = spawn(program, args, {
      env: { PATH: process.env.PATH ?? PATH, LANG: process.env.LANG ?? 'C.UTF-8', ...home, ...env },
      cwd: '/',
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true, // a process group of its own
      ...(account && account.uid !== process.geteuid?.() ? { uid: account.uid, gid: account.gid } : {}),
    });
    let output = '';
    let timedOut = false;
    let killing: NodeJS.Timeout | null = null;
    const kill = (by: NodeJS.Signals): void => {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, by);
      } catch {
        // the group is gone
      }
    };
    const end = (): void => {
      kill('SIGTERM');
      killing ??= setTimeout(() => {
        kill('SIGKILL');
        // Whoever left the group may hold the pipes open for ever.
        child.stdout.destroy();
        child.stderr.destroy();
      }, KILL_AFTER_MS);
    };
    const timer = setTimeout(() => {
      timedOut = true;
      end();
    }, hook.timeout_sec * 1000);
    signal.addEventListener('abort', end, { once: true });
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => {
        output = (output + text).slice(-OUTPUT_CHARS);
      });
    const settle = (): void => {
      clearTimeout(timer);
      if (killing) clearTimeout(killing);
      signal.removeEventListener('abort', end);
    };
    child.on('error', (cause: NodeJS.ErrnoException) => {
      settle();
      reject(
        new AegisError(
          'backups.hook_failed',
          `The command '${program}' cannot be started (${cause.code}): see that it is there and may be run.`,
          {
            cause,
          },
        ),
      );
    });
    child.on('exit', () => {
      // What it left running in its group would go on for ever, and hold the pipes.
      kill('SIGTERM');
      killing ??= setTimeout(() => {
        kill('SIGKILL');
        child.stdout.destroy();
        child.stderr.destroy();
      }, KILL_AFTER_MS);
    });
    child.on('close', (exit, by) => {
      settle();
      resolve({ argv: hook.argv, exit, signal: by, timedOut, output });
    });
  });

const accountOf = (user: string): { name: string; uid: number; gid: number; home: string } => {
  for (const line of readFileSync('/etc/passwd', 'utf8').split('\n')) {
    const [name, , uid, gid, , home] = line.split(':');
    if (name && (name === user || uid === user)) return { name, uid: Number(uid), gid: Number(gid), home: home || '/' };
  }
  throw new AegisError(
    'backups.hook_failed',
    `There is no user '${user}' on this node: make it, or name another in the hook.`,
  );
};
