import { rm } from 'node:fs';
import type { Logger } from '../platform/log.ts';

/** Removes execution folders on the thread pool, a few at a time: unlinking waits for the file system's own journal, and the event
 *  loop must not. What is not removed when the process ends is swept at the next start. */
export const folderRemover = (log: Logger): ((dir: string) => void) => {
  const waiting: string[] = [];
  let busy = 0;
  const next = (): void => {
    const dir = waiting.shift();
    if (dir === undefined) return;
    busy++;
    rm(dir, { recursive: true, force: true }, (error) => {
      busy--;
      if (error) log.warn({ err: error, dir }, 'cannot remove an execution folder; it is swept later');
      next();
    });
  };
  return (dir) => {
    waiting.push(dir);
    if (busy < PARALLEL) next();
  };
};

const PARALLEL = 2;
