import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
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

export interface HookContext {
  env: Readonly<Record<string, string>>;
  signal: AbortSignal;
  /** Where it is noted while it runs: a daemon that comes back ends what it left. */
  notes: string;
}

/** @throws AegisError backups.hook_failed when it cannot be started or does not end well; the signal's reason when that ended it */
export const runHook = async (hook: Hook, context: HookContext): Promise<HookOutcome> => {
  const { signal } = context;
  signal.throwIfAborted();
  const outcome = await execute(hook, context);
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

const execute = (hook: Hook, { env, signal, notes }: HookContext): Promise<HookOutcome> =>
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
    const forget = child.pid === undefined ? () => undefined : note(notes, child.pid);
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
      forget();
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

/** Which process a pid is, over its reuse and over reboots; null when it is gone. */
const incarnation = (pid: number): string | null => {
  try {
    const started = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ').at(-1)?.split(' ')[19];
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()} ${started}`;
  } catch {
    return null;
  }
};
const NOTE = /^hook-(\d+)$/;
const note = (folder: string, pid: number): (() => void) => {
  const path = join(folder, `hook-${pid}`);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    writeFileSync(path, incarnation(pid) ?? '', { mode: 0o600 });
  } catch {
    // A full disk: should the daemon die now, the hook runs to its end beside the next one.
  }
  return () => rmSync(path, { force: true });
};

/** Ends hooks of a daemon that died: their runs begin anew. */
export const endLeftHooks = (folder: string): void => {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  for (const name of readdirSync(folder)) {
    const pid = Number(NOTE.exec(name)?.[1] ?? 0);
    if (pid <= 1) continue;
    const path = join(folder, name);
    if (readFileSync(path, 'latin1') === incarnation(pid)) {
      try {
        process.kill(-pid, 'SIGKILL');
      } catch {
        // gone meanwhile
      }
    }
    rmSync(path, { force: true });
  }
};
