import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Places that nobody else is in, for attaching probes where they touch nothing: all gone when they are disposed. */

export interface Place extends AsyncDisposable {
  readonly path: string;
}

/** A network namespace with nothing but its own lo, held by a process of util-linux's `unshare` until disposed.
 *  @throws Error where that program or the right to it is missing */
export const scratchNetns = async (): Promise<Place> => {
  // `cat` ends with its standard input, so also when this process dies.
  const child = spawn('unshare', ['--net', '--', 'sh', '-c', 'echo made; exec cat'], {
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const ended = new Promise<void>((resolve) => {
    child.once('close', () => resolve());
    child.once('error', () => resolve());
  });
  let complaint = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint += text;
  });
  const made = await new Promise<boolean>((resolve) => {
    child.once('error', (error) => {
      complaint = error.message;
      resolve(false);
    });
    child.stdout.once('data', () => resolve(true));
    child.once('close', () => resolve(false));
  });
  const leave = async () => {
    child.kill('SIGKILL');
    await ended;
  };
  if (!made || child.pid === undefined) {
    await leave();
    throw new Error(`no scratch network namespace: ${complaint.trim()}`);
  }
  return { path: `/proc/${child.pid}/ns/net`, [Symbol.asyncDispose]: leave };
};

/** Where cgroup v2 is mounted, or null. */
export const cgroup2Mount = (proc = '/proc'): string | null => {
  for (const line of readFileSync(join(proc, 'mounts'), 'utf8').split('\n')) {
    const [, path, type] = line.split(' ');
    if (type === 'cgroup2' && path) return path;
  }
  return null;
};

/** An empty cgroup. @throws Error where none may be made */
export const scratchCgroup = (mount: string, nowMs: number = Date.now()): Place => {
  sweepCgroups(mount, nowMs);
  const path = join(mount, `aegis-probe-${process.pid}-${randomBytes(6).toString('hex')}`);
  mkdirSync(path);
  return { path, [Symbol.asyncDispose]: async () => rmdirSync(path) };
};

/** A probe takes seconds: what is so old was left by one that was killed. */
const LEFT_MS = 60_000;
const sweepCgroups = (mount: string, nowMs: number): void => {
  for (const name of readdirSync(mount)) {
    if (!name.startsWith('aegis-probe-')) continue;
    const path = join(mount, name);
    try {
      if (nowMs - statSync(path).ctimeMs > LEFT_MS) rmdirSync(path);
    } catch {
      // Gone meanwhile, or in use: another probe will see.
    }
  }
};

/** A file that looks like machine code and that no process maps: a uprobe on it is never met. */
export const scratchBinary = (temporary: string): Place => {
  const folder = mkdtempSync(join(temporary, 'aegis-probe-'));
  const path = join(folder, 'code');
  writeFileSync(path, Buffer.alloc(4096, 0x90), { mode: 0o700 });
  return { path, [Symbol.asyncDispose]: async () => rmSync(folder, { recursive: true, force: true }) };
};
