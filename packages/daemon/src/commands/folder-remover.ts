import { readdir, rmdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from '../platform/log.ts';
import { errnoOf } from '../platform/process.ts';

/** Removes execution folders on the thread pool, a few at a time: unlinking waits for the file system's own journal, and the event
 *  loop must not. They are flat, so three calls do what fs.rm does with an lstat for each file. What is not removed when the
 *  process ends is swept at the next start. */
export const folderRemover = (log: Logger): ((dir: string) => void) => {
  const waiting: string[] = [];
  let busy = 0;
  const work = async (): Promise<void> => {
    busy++;
    for (let dir = waiting.shift(); dir !== undefined; dir = waiting.shift()) {
      try {
        await removeFlatFolder(dir);
      } catch (error) {
        if (errnoOf(error) !== 'ENOENT')
          log.warn({ err: error, dir }, 'cannot remove an execution folder; it is swept later');
      }
    }
    busy--;
  };
  return (dir) => {
    waiting.push(dir);
    if (busy < PARALLEL) void work();
  };
};

const PARALLEL = 2;

const removeFlatFolder = async (dir: string): Promise<void> => {
  for (const name of await readdir(dir)) await unlink(join(dir, name));
  await rmdir(dir);
};
