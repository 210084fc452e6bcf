import { type FileCalls, fileCalls } from '@aegis/native/files';
import { SystemError } from '@aegis/native/system-error';

/** The real calls, with something that happens at a named point of a file: before or after it is opened, or before its nth read. */

export interface Happening {
  /** The name that is opened, the last component. */
  name: string;
  /** `opening`: before openat, `opened`: after it; a number: before that read of the open file, from 1 on. */
  at: 'opening' | 'opened' | number;
  /** May throw what the call then throws. */
  happens(): void;
}

export const filesWith = (...happenings: Happening[]): FileCalls => {
  const real = fileCalls();
  const open = new Map<number, { name: string; reads: number }>();
  const pass = (name: string, at: Happening['at']): void => {
    for (const one of happenings) if (one.name === name && one.at === at) one.happens();
  };
  return {
    ...real,
    openAt: (directoryFd, name, flags, mode) => {
      const text = name.toString('latin1');
      pass(text, 'opening');
      const fd = real.openAt(directoryFd, name, flags, mode);
      open.set(fd, { name: text, reads: 0 });
      pass(text, 'opened');
      return fd;
    },
    readInto: (fd, buffer, offset, length, position) => {
      const file = open.get(fd);
      if (file) pass(file.name, ++file.reads);
      return real.readInto(fd, buffer, offset, length, position);
    },
    closeFd: (fd) => {
      open.delete(fd);
      real.closeFd(fd);
    },
  };
};

export const failing = (errno: number, syscall: string) => (): never => {
  throw new SystemError(errno, syscall);
};

/** As a disk does: each read that touches these bytes fails with EIO, or ends before them. */
export const withBadBytes = (files: FileCalls, name: string, from: number, to: number): FileCalls => {
  const bad = new Set<number>();
  return {
    ...files,
    openAt: (directoryFd, path, flags, mode) => {
      const fd = files.openAt(directoryFd, path, flags, mode);
      if (path.toString('latin1') === name) bad.add(fd);
      return fd;
    },
    closeFd: (fd) => {
      bad.delete(fd);
      files.closeFd(fd);
    },
    readInto: (fd, buffer, offset, length, position) => {
      if (!bad.has(fd) || position + length <= from || position >= to)
        return files.readInto(fd, buffer, offset, length, position);
      if (position >= from) throw new SystemError(5, 'pread');
      return files.readInto(fd, buffer, offset, from - position, position);
    },
  };
};
