/** A scratch cgroup v2: under the machine's cgroup2 mount, or under one that is made in a temporary folder where there is none. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { needRoot, run, until } from './commands.ts';

export interface Cgroup extends AsyncDisposable {
  readonly path: string;
  /** As links and programs say it: the folder's inode number. */
  readonly id: bigint;
  /** `argv` as it runs in here. */
  inside(argv: readonly string[]): string[];
  run(argv: readonly string[]): Promise<string>;
}

export const makeCgroup = (): Cgroup => {
  needRoot();
  const mounted = /^\S+ (\S+) cgroup2 /m.exec(readFileSync('/proc/mounts', 'utf8'))?.[1];
  const own = mounted === undefined ? mkdtempSync(join(tmpdir(), 'aegis-cgroup-')) : null;
  if (own) execFileSync('mount', ['-t', 'cgroup2', 'none', own]);
  const path = join(mounted ?? own ?? '', `aegis-test-${randomBytes(4).toString('hex')}`);
  mkdirSync(path);
  const inside = (argv: readonly string[]) => ['sh', '-c', 'echo $$ >"$0/cgroup.procs" && exec "$@"', path, ...argv];
  return {
    path,
    id: statSync(path, { bigint: true }).ino,
    inside,
    run: (argv) => run(inside(argv)),
    [Symbol.asyncDispose]: async () => {
      writeFileSync(join(path, 'cgroup.kill'), '1');
      await until('an empty cgroup', () => readFileSync(join(path, 'cgroup.events'), 'utf8').includes('populated 0'));
      rmdirSync(path);
      if (!own) return;
      execFileSync('umount', [own]);
      rmdirSync(own);
    },
  };
};
