/** The cgroup under which executions get theirs, and the sweeping of those that outlived their supervisor. */
import { accessSync, constants, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';

/** Path of this process's cgroup2 folder, or null when there is none that it may write to (then a spec names no cgroup).
 *  Under systemd this needs `Delegate=yes`. */
export const ownCgroup = (proc = '/proc/self'): string | null => {
  const place = /^0::(\/.*)$/m.exec(readFileSync(join(proc, 'cgroup'), 'utf8'))?.[1];
  if (place === undefined) return null;
  for (const line of readFileSync(join(proc, 'mountinfo'), 'utf8').split('\n')) {
    const [before = '', after = ''] = line.split(' - ');
    const [, , , root, mount] = before.split(' ');
    if (!after.startsWith('cgroup2 ') || root !== '/' || !mount) continue;
    const path = join(mount, place);
    if (mayWrite(path) && mayWrite(join(path, 'cgroup.procs'))) return path;
  }
  return null;
};

const mayWrite = (path: string): boolean => {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false; // read-only, not ours or not there: in each case no place for cgroups
  }
};

/** Removes those empty `exec-<id>` folders that may go and returns the ids of those that stay because processes live in them:
 *  left-overs of a normal end, or of a supervisor that was killed. */
export const sweepExecutionCgroups = (
  parent: string,
  mayRemove: (id: string, path: string) => boolean = () => true,
): string[] => {
  const held: string[] = [];
  for (const entry of readdirSync(parent, { withFileTypes: true })) {
    if (!entry.isDirectory() || !entry.name.startsWith('exec-')) continue;
    const path = join(parent, entry.name);
    const id = entry.name.slice('exec-'.length);
    if (!mayRemove(id, path)) continue;
    try {
      rmdirSync(path);
    } catch {
      held.push(id); // EBUSY: somebody lives there
    }
  }
  return held;
};
