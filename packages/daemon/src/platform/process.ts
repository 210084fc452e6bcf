import { accessSync, constants, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { constants as osConstants } from 'node:os';
import { join } from 'node:path';

/** Facts about processes on this machine: our own cgroup, signal names. Roots are parameters. */

/** The cgroup2 folder that this process lives in, when it may make others in it; else null. Under systemd with Delegate=yes,
 *  or as root, it may. */
export const writableCgroup = (proc = '/proc'): string | null => {
  try {
    const own = /^0::(.*)$/m.exec(readFileSync(join(proc, 'self/cgroup'), 'utf8'))?.[1];
    if (own === undefined) return null;
    for (const line of readFileSync(join(proc, 'self/mountinfo'), 'utf8').split('\n')) {
      // mountinfo(5): id parent major:minor root mountpoint options… - type source options
      const [mount, filesystem] = line.split(' - ');
      if (!mount || !filesystem?.startsWith('cgroup2 ')) continue;
      const [, , , root, mountPoint] = mount.split(' ');
      if (!root || !mountPoint) continue;
      const below = root === '/' ? own : own.startsWith(root) ? own.slice(root.length) : null;
      if (below === null || below.split('/').includes('..')) continue;
      const folder = join(mountPoint, below);
      accessSync(folder, constants.W_OK);
      accessSync(join(folder, 'cgroup.procs'), constants.W_OK);
      return folder;
    }
    return null;
  } catch {
    return null; // no cgroup2, or not ours to write: executions run without one
  }
};

const CGROUP_TRIES = 50;
const CGROUP_AGAIN_MS = 100;

/** Kills whatever is left in a cgroup2 folder and removes it; tries for some seconds, because processes take time to die.
 *  A folder that is not there is fine. */
export const endCgroup = (folder: string, tries = CGROUP_TRIES): void => {
  try {
    writeFileSync(join(folder, 'cgroup.kill'), '1');
    rmdirSync(folder);
  } catch (error) {
    if (errnoOf(error) === 'EBUSY' && tries > 0)
      setTimeout(() => endCgroup(folder, tries - 1), CGROUP_AGAIN_MS).unref();
  }
};

/** Of two names for one number the first is the usual one: SIGABRT, not SIGIOT. */
const SIGNALS = new Map(
  Object.entries(osConstants.signals)
    .reverse()
    .map(([name, number]) => [number as number, name]),
);
export const signalName = (number: number): string => SIGNALS.get(number) ?? `SIG${number}`;

export const errnoOf = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
