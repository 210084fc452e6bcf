import { closeSync, constants, openSync, readSync, unlinkSync } from 'node:fs';
import type { Segment } from '@aegis/native/execution-folder';
import type { Logger } from '../platform/log.ts';
import { errnoOf } from '../platform/process.ts';

/** Reads spool segments. One that the disk does not give back is tried some times and then given up: its bytes become a gap, so
 *  that an execution with a bad sector ends like any other instead of trying for ever. */
export interface SegmentReader {
  /** Fills `into` from `position` on. False when the file is gone, or shorter than it was: plan anew.
   *  @throws the read's error, to be tried again later */
  read(segment: Segment | undefined, position: number, into: Uint8Array): boolean;
}

/** With the drain loop's pause between two tries, half a minute. */
const TRIES = 6;

export const segmentReader = ({
  log,
  readAt = readFile,
}: {
  log: Logger;
  /** Tests put a bad disk in its place. */
  readAt?: (path: string, position: number, into: Uint8Array) => boolean;
}): SegmentReader => {
  const failures = new Map<string, number>();
  return {
    read: (segment, position, into) => {
      if (!segment) return false;
      const { path, offset, bytes } = segment;
      try {
        const whole = readAt(path, position, into);
        failures.delete(path);
        return whole;
      } catch (error) {
        const tries = (failures.get(path) ?? 0) + 1;
        failures.set(path, tries);
        if (tries < TRIES || !segment.complete || errnoOf(error) !== 'EIO') throw error;
        failures.delete(path);
        log.error({ err: error, path, offset, bytes }, 'output that the disk does not give back: it is told as a gap');
        unlinkIfThere(path);
        return false;
      }
    },
  };
};

export const unlinkIfThere = (path: string): void => {
  try {
    unlinkSync(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
};

const readFile = (path: string, position: number, into: Uint8Array): boolean => {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
  try {
    for (let read = 0; read < into.length; ) {
      const got = readSync(fd, into, read, into.length - read, position + read);
      if (got === 0) return false;
      read += got;
    }
    return true;
  } finally {
    closeSync(fd);
  }
};
