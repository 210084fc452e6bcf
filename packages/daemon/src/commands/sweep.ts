import { lstatSync, opendirSync } from 'node:fs';
import { join } from 'node:path';
import { sweepExecutionCgroups } from '@aegis/native/cgroups';
import { removeExecutionFolder, supervisorAlive } from '@aegis/native/execution-folder';
import { isUuid } from '@aegis/protocol/ids';
import type { Logger } from '../platform/log.ts';

const LIMIT = 2000;

/** Removes folders below `root` that belong to no journalled execution: left when the daemon died between freeing a row and
 *  removing its folder. Only real folders named like an execution, never through a link, at most so many at once; one whose
 *  supervisor still lives stays. Returns how many were removed. */
export const sweepFolders = (root: string, isKnown: (executionId: string) => boolean, log: Logger): number => {
  let removed = 0;
  const folder = opendirSync(root);
  try {
    for (let seen = 0; seen < 10 * LIMIT && removed < LIMIT; seen++) {
      const entry = folder.readSync();
      if (!entry) break;
      if (!isUuid(entry.name) || isKnown(entry.name)) continue;
      const dir = join(root, entry.name);
      if (!lstatSync(dir, { throwIfNoEntry: false })?.isDirectory()) continue;
      if (supervisorAlive(dir)) {
        log.warn(
          { execution_id: entry.name },
          'a command runs that the journal does not know; its folder stays until it has ended',
        );
        continue;
      }
      removeExecutionFolder(dir);
      removed++;
    }
  } finally {
    folder.closeSync();
  }
  if (removed > 0) log.info({ removed }, 'removed left-over execution folders');
  return removed;
};

const CGROUP_AGE_MS = 600_000;

/** Removes the empty cgroups of executions that left processes behind: their supervisor had to leave those to them. Several daemons
 *  may share one parent, so whose a folder is does not show; one that is young, or empty only since this look, may be about to be
 *  entered. The times of such folders are not kept for ever by the kernel: one that was there at the look before is old too. */
export const cgroupSweep = ({
  parent,
  isLive,
  now,
  log,
}: {
  parent: string;
  isLive(executionId: string): boolean;
  now(): number;
  log: Logger;
}): (() => void) => {
  let firstSeen = new Map<string, number>();
  return () => {
    const seen = new Map<string, number>();
    const isOld = (id: string, path: string): boolean => {
      if (!isUuid(id) || isLive(id)) return false;
      const madeMs = lstatSync(path, { throwIfNoEntry: false })?.mtimeMs ?? now();
      const sinceMs = Math.min(firstSeen.get(id) ?? now(), madeMs);
      seen.set(id, sinceMs);
      return now() - sinceMs >= CGROUP_AGE_MS;
    };
    try {
      sweepExecutionCgroups(parent, isOld);
    } catch (error) {
      log.warn({ err: error }, 'cannot look for left-over cgroups, trying again in an hour');
    }
    firstSeen = seen;
  };
};
