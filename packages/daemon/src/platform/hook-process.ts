import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** A program of this machine's own that something else runs at its time: an argument vector without a shell, in a process group of its own that
 *  ends with its time or with who waits for it. */

export interface HookProgram {
  argv: readonly string[];
  /** By name or uid; absent: the daemon's own. */
  user?: string | undefined;
  timeout_sec: number;
}
export interface HookSurroundings {
  /** All of it, beside what the account says. */
  env: Readonly<Record<string, string>>;
  /** Absent: /dev/null. */
  stdin?: string;
  onStdout(chunk: Buffer): void;
  onStderr(chunk: Buffer): void;
  signal: AbortSignal;
  /** Where it is noted while it runs: a daemon that comes back ends what it left. */
  notes: string;
}
export interface HookEnd {
  /** 0: it went well. */
  exit: number | null;
  signal: string | null;
  timedOut: boolean;
}

/** It did not begin; the message says why, and what to do. */
export class HookNotStarted extends Error {}

const KILL_AFTER_MS = 5000;
export const HOOK_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** @throws HookNotStarted */
export const runHookProcess = (program: HookProgram, around: HookSurroundings): Promise<HookEnd> =>
  new Promise((resolve, reject) => {
    const { signal } = around;
    const [file = '', ...args] = program.argv;
    const account = program.user === undefined ? null : accountOf(program.user);
    const home = account ? { HOME: account.home, USER: account.name, LOGNAME: account.name } : {};
    const child = spawn(file, args, {
      env: { ...home, ...around.env },
      cwd: '/',
      stdio: [around.stdin === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
      detached: true, // a process group of its own
      ...(account && account.uid !== process.geteuid?.() ? { uid: account.uid, gid: account.gid } : {}),
    });
    const { stdin, stdout, stderr } = child;
    if (!stdout || !stderr) throw new RangeError('a hook without pipes');
    const forget = child.pid === undefined ? () => undefined : note(around.notes, child.pid);
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
        stdout.destroy();
        stderr.destroy();
      }, KILL_AFTER_MS);
    };
    const timer = setTimeout(() => {
      timedOut = true;
      end();
    }, program.timeout_sec * 1000);
    signal.addEventListener('abort', end, { once: true });
    if (signal.aborted) end();
    stdout.on('data', around.onStdout);
    stderr.on('data', around.onStderr);
    stdin?.on('error', () => undefined); // it does not read what it is given: its own affair
    stdin?.end(around.stdin);
    const settle = (): void => {
      clearTimeout(timer);
      if (killing) clearTimeout(killing);
      signal.removeEventListener('abort', end);
      forget();
    };
    child.on('error', (cause: NodeJS.ErrnoException) => {
      settle();
      reject(
        new HookNotStarted(
          `The command '${file}' cannot be started (${cause.code}): see that it is there and may be run.`,
          { cause },
        ),
      );
    });
    // What it left running in its group would go on for ever, and hold the pipes.
    child.on('exit', end);
    child.on('close', (exit, by) => {
      settle();
      resolve({ exit, signal: by, timedOut });
    });
  });

const accountOf = (user: string): { name: string; uid: number; gid: number; home: string } => {
  for (const line of readFileSync('/etc/passwd', 'utf8').split('\n')) {
    const [name, , uid, gid, , home] = line.split(':');
    if (name && (name === user || uid === user)) return { name, uid: Number(uid), gid: Number(gid), home: home || '/' };
  }
  throw new HookNotStarted(`There is no user '${user}' on this node: make it, or name another in the hook.`);
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

/** Ends hooks of a daemon that died: what they were for begins anew. */
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
