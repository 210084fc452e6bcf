import { readdirSync, readFileSync } from 'node:fs';

/** What the kernel says of a process. Throws when it is gone. */
export const memoryOf = (pid: number | undefined): { residentMb: number; peakMb: number; files: number } => {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const mb = (name: string): number =>
    Math.round(Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) / 1024);
  return { residentMb: mb('VmRSS'), peakMb: mb('VmHWM'), files: readdirSync(`/proc/${pid}/fd`).length };
};

export const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
