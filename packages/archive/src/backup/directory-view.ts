import { constants } from 'node:fs';
import { EMPTY, type FileCalls, type Listing, nameAt, STAT_FIELDS } from '@aegis/native/files';
import { SystemError } from '@aegis/native/system-error';
import type { DirectoryView } from './select/selection.ts';
import { kindOf } from './source-stat.ts';

/** Never waits (a FIFO may have been given a marker's name), never follows. */
export const OPEN_FILE = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY;

/** A directory as the selection sees it. Holds as long as `fd` is open. */
export const directoryView = (
  files: FileCalls,
  fd: number,
  listing: Listing,
  about: { path: Buffer; device: number; sourceDevice: number },
): DirectoryView => ({
  ...about,
  has: (name) => indexOf(listing, name) >= 0,
  read: (name, limit) => {
    if (indexOf(listing, name) < 0) return null;
    try {
      return readStart(files, fd, name, limit);
    } catch (error) {
      if (error instanceof SystemError) return null;
      throw error;
    }
  },
});

const readStart = (files: FileCalls, directoryFd: number, name: Buffer, limit: number): Buffer | null => {
  const fd = files.openAt(directoryFd, name, OPEN_FILE);
  try {
    const stat = new Float64Array(STAT_FIELDS);
    files.statAt(fd, EMPTY, stat);
    if (kindOf(stat) !== 'file') return null;
    const bytes = Buffer.alloc(limit);
    return bytes.subarray(0, files.readInto(fd, bytes, 0, limit, 0));
  } finally {
    files.closeFd(fd);
  }
};

/** By halves: a listing is sorted. -1 when there is no such name. */
export const indexOf = (listing: Listing, name: Buffer): number => {
  let low = 0;
  let high = listing.ends.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const order = nameAt(listing, middle).compare(name);
    if (order === 0) return middle;
    if (order < 0) low = middle + 1;
    else high = middle;
  }
  return -1;
};
