import { spawn } from 'node:child_process';
import type { Deliver } from './delivery-loop.ts';

/** Runs an operator's command with an alert as JSON on standard input: an argument vector, no shell, a process group of its own that ends
 *  with its time. Exit status 0 means that it was delivered. */

const KILL_AFTER_MS = 2000;
const OUTPUT_CHARS = 500;
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export const alertCommand =
  (on: { argv: readonly string[]; timeoutMs: number }): Deliver =>
  (body, signal) =>
    new Promise((resolve, reject) => {
      const [program = '', ...args] = on.argv;
      const child = spawn(program, args, {
        cwd: '/',
        env: { PATH: process.env.PATH ?? PATH, LANG: 'C.UTF-8' }, // nothing of the server's own environment: it may hold secrets
        stdio: ['pipe', 'pipe', 'pipe'],
        detached: true,
      });
      let output = '';
      let why: string | null = null;
      const kill = (by: NodeJS.Signals): void => {
        try {
          if (child.pid !== undefined) process.kill(-child.pid, by);
        } catch {
          // the group is gone
        }
      };
      const end = (reason: string): void => {
        why ??= reason;
        kill('SIGTERM');
        setTimeout(() => {
          kill('SIGKILL');
          // Whoever left the group may hold the pipes open for ever.
          child.stdout.destroy();
          child.stderr.destroy();
        }, KILL_AFTER_MS).unref();
      };
      const timer = setTimeout(() => end(`it was stopped after ${on.timeoutMs / 1000} s`), on.timeoutMs);
      const stop = () => end('the server stops');
      signal.addEventListener('abort', stop, { once: true });
      const hear = (text: string): void => {
        output = `${output}${text}`.slice(-OUTPUT_CHARS);
      };
      child.stdout.setEncoding('utf8').on('data', hear);
      child.stderr.setEncoding('utf8').on('data', hear);
      child.stdin.on('error', () => undefined); // one that does not read: its exit status counts
      child.stdin.end(body);
      const over = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', stop);
      };
      child.once('error', (error: NodeJS.ErrnoException) => {
        over();
        reject(new Error('it cannot be started', { cause: error }));
      });
      child.once('close', (code, by) => {
        over();
        if (why === null && code === 0) return resolve();
        const how = why ?? (code === null ? `it was ended by ${by}` : `it exited with ${code}`);
        const said = output.trim().split('\n').at(-1) ?? '';
        reject(new Error(said === '' ? how : `${how}: ${said}`));
      });
    });
