import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

/** What the kernel says of a running process (proc(5)). */

const MB = 1_000_000;

const statusKb = (pid: number, key: string): number => {
  const found = new RegExp(`^${key}:\\s+(\\d+) kB$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  if (!found) throw new Error(`/proc/${pid}/status has no ${key}`);
  return Number(found[1]);
};
export const residentMb = (pid: number): number => (statusKb(pid, 'VmRSS') * 1024) / MB;
/** The most that was resident since the last reset. */
export const peakResidentMb = (pid: number): number => (statusKb(pid, 'VmHWM') * 1024) / MB;
export const resetPeakResident = (pid: number): void => writeFileSync(`/proc/${pid}/clear_refs`, '5');

/** CPU time of all its threads, in ms. schedstat counts nanoseconds, where stat counts hundredths of a second. */
export const cpuMs = (pid: number): number =>
  readdirSync(`/proc/${pid}/task`).reduce(
    (sum, task) => sum + Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0]) / 1e6,
    0,
  );

export const childrenOf = (pid: number): number[] =>
  readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
  );
