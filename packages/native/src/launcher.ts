/** native/launcher: the tiny resident process that forks supervisors for the daemon. It is a convenience, not a
 *  dependency: supervisors outlive it, and nothing is read from it that the folders do not say too. */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { basename } from 'node:path';

export type HintKind = 'claimed' | 'output' | 'exited' | 'busy' | 'failed';

export type LauncherOptions = {
  /** Path of aegis-exec; see binaries.ts. */
  binary: string;
  /** A reason to look at an execution's folder. Hints can be lost. `detail` is the reason of `failed`, else ''. */
  onHint: (executionId: string, kind: HintKind, detail: string) => void;
  /** The launcher is gone, once. Unless close() was called, start another and ask again for what was not claimed. */
  onExit: (how: { code: number | null; signal: NodeJS.Signals | null; error: Error | null }) => void;
  /** Environment of launcher and supervisors (never of commands); default empty. */
  env?: NodeJS.ProcessEnv;
};

export type Launcher = {
  readonly pid: number | undefined;
  /** Asks for a supervisor. Never throws; with the launcher gone the request is lost, as it is in a crash. */
  start: (dir: string) => void;
  /** Ends the launcher, not the supervisors. */
  close: () => Promise<void>;
};

const HINT = /^(\S+) (claimed|output|exited|busy|failed)(?: (.*))?$/;
const LINE_LIMIT = 16 * 1024;

const isHintKind = (text: string | undefined): text is HintKind =>
  text === 'claimed' || text === 'output' || text === 'exited' || text === 'busy' || text === 'failed';

export const startLauncher = ({ binary, onHint, onExit, env = {} }: LauncherOptions): Launcher => {
  // Typed as what it is when no descriptor is left: a child without streams, whose 'error' follows.
  const child: ChildProcess = spawn(binary, ['--launcher'], { stdio: ['pipe', 'pipe', 'inherit'], env, cwd: '/' });
  const gone = Promise.withResolvers<void>();
  let over = false;
  const end = (code: number | null, signal: NodeJS.Signals | null, error: Error | null): void => {
    if (over) return;
    over = true;
    child.stdout?.destroy(); // supervisors hold the other end; their hints go nowhere now
    gone.resolve();
    onExit({ code, signal, error });
  };
  child.on('error', (error) => end(null, null, error));
  child.on('exit', (code, signal) => end(code, signal, null));
  child.stdin?.on('error', () => undefined); // EPIPE: 'exit' tells
  child.stdout?.on('error', () => undefined);
  child.stdout?.setEncoding('utf8');

  let rest = '';
  child.stdout?.on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > LINE_LIMIT) rest = '';
    for (const line of lines) {
      const [, id, kind, detail] = HINT.exec(line) ?? [];
      if (id && isHintKind(kind)) onHint(id, kind, detail ?? '');
    }
  });

  /** What is asked for together goes in one write: each wakes the launcher. */
  let asked = '';
  const flush = (): void => {
    const lines = asked;
    asked = '';
    if (!over && child.stdin?.writable) child.stdin.write(lines);
  };

  return {
    pid: child.pid,
    start: (dir) => {
      if (dir.includes('\n')) return onHint(basename(dir), 'failed', 'the folder name contains a line break');
      if (over || !child.stdin?.writable) return;
      if (asked === '') process.nextTick(flush);
      asked += `start ${dir}\n`;
    },
    close: () => {
      if (!over) {
        flush();
        child.stdin?.end();
      }
      return gone.promise;
    },
  };
};
