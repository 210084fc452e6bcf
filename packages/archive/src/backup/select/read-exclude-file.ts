import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { O_PATH } from '@aegis/native/files';
import { MAX_FILE_BYTES } from './exclude-files.ts';

/** An exclude file, which may lie where somebody else can put something in its place: a pipe would be waited for, a device is told that it was
 *  opened, and some files have no end. What is no file is looked at and not opened.
 *  @returns at most one byte more than an exclude file may have */
export const readExcludeFile = (path: string): Buffer => {
  const looked = openSync(path, O_PATH);
  try {
    if (!fstatSync(looked).isFile()) throw new Error(`${path} is no file`);
    const fd = openSync(`/proc/self/fd/${looked}`, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      return upTo(fd, MAX_FILE_BYTES + 1);
    } finally {
      closeSync(fd);
    }
  } finally {
    closeSync(looked);
  }
};

const upTo = (fd: number, most: number): Buffer => {
  const pieces: Buffer[] = [];
  for (let length = 0; length < most; ) {
    const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, most - length));
    const bytes = readSync(fd, piece, 0, piece.length, null);
    if (bytes === 0) break;
    pieces.push(piece.subarray(0, bytes));
    length += bytes;
  }
  return Buffer.concat(pieces);
};
const PIECE_BYTES = 64 * 1024;
