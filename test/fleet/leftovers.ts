import { readdirSync, readlinkSync } from 'node:fs';
import { waitFor } from '../faults/wait.ts';

/** Supervisors outlive their daemon by design, so a test that ends early must end them itself: by the working folder that they
 *  and their launcher keep open below the node's data directory, never by name. */
export const endExecutionsBelow = async (dataDir: string): Promise<void> => {
  const theirs = () => pids().filter((pid) => filesOf(pid).some((path) => path.startsWith(`${dataDir}/`)));
  await waitFor(
    `the executions below ${dataDir} to end`,
    () => {
      const left = theirs();
      for (const pid of left) signal(pid);
      return left.length === 0;
    },
    20_000,
  );
};

const pids = (): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);

const filesOf = (pid: number): string[] => {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  } catch {
    return []; // gone in the meantime
  }
};

const signal = (pid: number): void => {
  try {
    if (pid !== process.pid) process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
};
