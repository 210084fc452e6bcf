/** native/files: the file system calls that Node.js lacks, synchronous and relative to directory descriptors.
 *  Backups (scan, archive, restore) call it. Names and paths are Buffers: a file name is bytes, not text.
 *  Invariant: no call here follows a symlink in the last component, and each failure is a SystemError with the kernel's code.
 *  Must not: walk trees, keep state, or decide what an error means. */
import { constants } from 'node:fs';
import { loadAddon } from './binaries.ts';
import { SystemError } from './system-error.ts';

/** What Node's `constants` lacks or has not everywhere (Linux, all architectures that Node runs on share these but O_DIRECTORY,
 *  O_NOFOLLOW, which Node has). */
export const AT_FDCWD = -100;
export const O_PATH = 0o10000000;
export const O_NOATIME = 0o1000000;
/** For opening a directory that is to be listed or walked into. */
export const OPEN_DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
/** For something that is only to be named: needs no permission on it, follows nothing, triggers no device. */
export const OPEN_NAME = O_PATH | constants.O_NOFOLLOW;

/** File types as readDirectory gives them. `unknown`: this file system does not say; use statAt. */
export const TYPE = {
  unknown: 0,
  fifo: 1,
  character: 2,
  directory: 4,
  block: 6,
  file: 8,
  symlink: 10,
  socket: 12,
} as const;

/** Where each field stands in a stat result: a Float64Array of `STAT_FIELDS` numbers for each name. Times are seconds and nanoseconds
 *  apart and an inode is two 32-bit halves, so that each is exact. `mountId` is -1 where the kernel does not tell (before 5.8).
 *  `attributes`: statx's mount root 0x2000, immutable 0x10, append 0x20. `mode` includes the type (S_IFMT). */
export const STAT = {
  mode: 0,
  links: 1,
  uid: 2,
  gid: 3,
  size: 4,
  /** Of 512 bytes. */
  blocks: 5,
  mtimeSec: 6,
  mtimeNsec: 7,
  atimeSec: 8,
  atimeNsec: 9,
  ctimeSec: 10,
  ctimeNsec: 11,
  devMajor: 12,
  devMinor: 13,
  inodeHigh: 14,
  inodeLow: 15,
  rdevMajor: 16,
  rdevMinor: 17,
  mountId: 18,
  attributes: 19,
} as const;
export const STAT_FIELDS = 20;

/** All names of a directory but '.' and '..', sorted by bytes: `bytes` holds them one after another, `ends[i]` is where name i ends,
 *  `types[i]` one of TYPE. `nameAt` takes one out. */
export type Listing = { readonly bytes: Buffer; readonly ends: Uint32Array; readonly types: Uint8Array };

/** Name `index` of a listing, sharing its memory. */
export const nameAt = (listing: Listing, index: number): Buffer =>
  listing.bytes.subarray(index === 0 ? 0 : listing.ends[index - 1], listing.ends[index]);

export type Xattr = { readonly name: Buffer; readonly value: Buffer };

/** As nanoseconds of a time: leaves it as it is. */
export const OMIT = 0x3ffffffe;

/** A name in a call that says so may be EMPTY: then the call works on the descriptor itself. */
export const EMPTY = Buffer.alloc(0);

export type FileCalls = {
  /** openat(2) with O_CLOEXEC; pass O_NOFOLLOW yourself (all flags from node:fs' constants and above). `mode` for O_CREAT. */
  openAt(dirFd: number, name: Buffer, flags: number, mode?: number): number;
  /** Opens `path` (relative, no '..', any length) below `dirFd` without following any symlink on the way (ELOOP, or ENOTDIR for a
   *  directory): openat2(2), where it is missing step by step. */
  openBeneath(dirFd: number, path: Buffer, flags: number, mode?: number): number;
  closeFd(fd: number): void;
  /** The whole directory `fd` (opened with OPEN_DIRECTORY), from its beginning. */
  readDirectory(fd: number): Listing;
  /** statx(2) without following, into `out` from `at` on (default 0). An EMPTY name is `dirFd` itself. */
  statAt(dirFd: number, name: Buffer, out: Float64Array, at?: number): void;
  /** statAt of each name of a listing in one call. `out` holds at least STAT_FIELDS × names. Where a name cannot be read, its
   *  mode is -errno (negative) and the rest undefined. */
  statListing(dirFd: number, listing: Listing, out: Float64Array): void;
  readLinkAt(dirFd: number, name: Buffer): Buffer;
  /** All extended attributes that the caller may see, ACLs among them (`system.posix_acl_access`, binary), of an open descriptor,
   *  also one opened with OPEN_NAME (symlinks, devices; needs /proc). Empty where the file system has none. E2BIG where names and values have
   *  more than `most` bytes together (default: what fits into memory). */
  getXattrs(fd: number, most?: number): readonly Xattr[];
  /** The same of a name: opens it with OPEN_NAME. */
  getXattrsAt(dirFd: number, name: Buffer, most?: number): readonly Xattr[];
  /** pread(2) until `length` bytes at `position` are in `buffer` from `offset` on; fewer only at the end of the file or before an
   *  error (the next call meets it). Answers the number of bytes. */
  readInto(fd: number, buffer: Buffer, offset: number, length: number, position: number): number;
  /** Where below `size` the file has data: start, end, start, end … in bytes; the rest are holes. A file system that cannot tell
   *  says one segment. Moves the descriptor's position. */
  dataSegments(fd: number, size: number): Float64Array;

  mkdirAt(dirFd: number, name: Buffer, mode: number): void;
  /** `mode` with the type (S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK). */
  mknodAt(dirFd: number, name: Buffer, mode: number, major?: number, minor?: number): void;
  symlinkAt(target: Buffer, dirFd: number, name: Buffer): void;
  /** linkat(2); a symlink is linked itself. */
  linkAt(fromDirFd: number, from: Buffer, toDirFd: number, to: Buffer): void;
  /** Gives the open file `fd` a name, also one that was made with O_TMPFILE; EEXIST when `to` is there. */
  linkFd(fd: number, toDirFd: number, to: Buffer): void;
  /** renameat2(2); EEXIST with `noReplace` when `to` is there (EINVAL where the file system has no RENAME_NOREPLACE). */
  renameAt(fromDirFd: number, from: Buffer, toDirFd: number, to: Buffer, options?: { noReplace?: boolean }): void;
  unlinkAt(dirFd: number, name: Buffer, options?: { directory?: boolean }): void;
  /** Without following; an EMPTY name is `dirFd` itself, O_PATH or not. Clears setuid and setgid, as the kernel does: chmod after it. */
  chownAt(dirFd: number, name: Buffer, uid: number, gid: number): void;
  /** Of an open descriptor, also one opened with OPEN_NAME (then needs /proc). Symlinks have no mode: EOPNOTSUPP. */
  chmodFd(fd: number, mode: number): void;
  /** Both times, nanoseconds in 0…999,999,999 or OMIT; seconds may be negative. Without following; an EMPTY name is `dirFd` itself, O_PATH
   *  or not. */
  utimesAt(dirFd: number, name: Buffer, times: Times): void;
  /** On an open descriptor, also one opened with OPEN_NAME. */
  setXattr(fd: number, name: Buffer, value: Buffer): void;
  removeXattr(fd: number, name: Buffer): void;
  /** pwrite(2) of all `length` bytes of `buffer` from `offset` on, at `position`. */
  writeFrom(fd: number, buffer: Buffer, offset: number, length: number, position: number): void;
  /** Gives the bytes back to the file system; they read as zeros. The size stays. */
  punchHole(fd: number, position: number, length: number): void;
  truncateFd(fd: number, size: number): void;
};

export type Times = { atimeSec: number; atimeNsec: number; mtimeSec: number; mtimeNsec: number };

/** The addon's side: a value, or -errno as a number. */
export type FileAddon = {
  openAt(dirFd: number, name: Buffer, flags: number, mode: number): number;
  openBeneath(dirFd: number, path: Buffer, flags: number, mode: number): number;
  closeFd(fd: number): number;
  readDirectory(fd: number): Listing | number;
  statAt(dirFd: number, name: Buffer, out: Float64Array, at: number): number;
  statListing(dirFd: number, bytes: Buffer, ends: Uint32Array, out: Float64Array): number;
  readLinkAt(dirFd: number, name: Buffer): Buffer | number;
  getXattrs(fd: number, most: number): Buffer[] | number | undefined;
  readInto(fd: number, buffer: Buffer, offset: number, length: number, position: number): number;
  dataSegments(fd: number, size: number): Float64Array | number;
  mkdirAt(dirFd: number, name: Buffer, mode: number): number;
  mknodAt(dirFd: number, name: Buffer, mode: number, major: number, minor: number): number;
  symlinkAt(target: Buffer, dirFd: number, name: Buffer): number;
  linkAt(fromDirFd: number, from: Buffer, toDirFd: number, to: Buffer): number;
  linkFd(fd: number, toDirFd: number, to: Buffer): number;
  renameAt(fromDirFd: number, from: Buffer, toDirFd: number, to: Buffer, noReplace: number): number;
  unlinkAt(dirFd: number, name: Buffer, directory: number): number;
  chownAt(dirFd: number, name: Buffer, uid: number, gid: number): number;
  chmodFd(fd: number, mode: number): number;
  utimesAt(dirFd: number, name: Buffer, aSec: number, aNsec: number, mSec: number, mNsec: number): number;
  setXattr(fd: number, name: Buffer, value: Buffer): number;
  removeXattr(fd: number, name: Buffer): number;
  writeFrom(fd: number, buffer: Buffer, offset: number, length: number, position: number): number;
  punchHole(fd: number, position: number, length: number): number;
  truncateFd(fd: number, size: number): number;
};

const NO_XATTRS: readonly Xattr[] = Object.freeze([]);
const ENOSYS = 38;
const EINVAL = 22;
const LONGEST_PATH = 4095;
const SLASH = 0x2f;

/** All calls, over the addon that bin/setup built. Throws when it is missing. */
export const fileCalls = (addon: FileAddon = loadAddon()): FileCalls => {
  const checked = (result: number, syscall: string, path?: Buffer): number => {
    if (result < 0) throw new SystemError(-result, syscall, path);
    return result;
  };
  const taken = <T>(result: T | number, syscall: string, path?: Buffer): T => {
    if (typeof result === 'number') throw new SystemError(-result, syscall, path);
    return result;
  };
  const close = (fd: number): void => {
    checked(addon.closeFd(fd), 'close');
  };

  /** One openat2, of at most PATH_MAX bytes; -errno. */
  const openOnce = (dirFd: number, path: Buffer, flags: number, mode: number): number => {
    const fd = addon.openBeneath(dirFd, path, flags, mode);
    return fd === -ENOSYS ? openStepwise(dirFd, path, flags, mode) : fd;
  };
  const openStepwise = (dirFd: number, path: Buffer, flags: number, mode: number): number => {
    let at = dirFd;
    try {
      for (let start = 0; ; ) {
        const slash = path.indexOf(SLASH, start);
        if (slash < 0) return addon.openAt(at, path.subarray(start), flags | constants.O_NOFOLLOW, mode);
        const next = addon.openAt(at, path.subarray(start, slash), OPEN_NAME | constants.O_DIRECTORY, 0);
        if (at !== dirFd) close(at);
        at = next;
        if (next < 0) return next;
        start = slash + 1;
      }
    } finally {
      if (at !== dirFd && at >= 0) close(at);
    }
  };
  const openBeneath = (dirFd: number, path: Buffer, flags: number, mode = 0): number => {
    if (!isInner(path)) throw new SystemError(EINVAL, 'openat2', path);
    let at = dirFd;
    let rest = path;
    try {
      while (rest.length > LONGEST_PATH) {
        const slash = rest.lastIndexOf(SLASH, LONGEST_PATH);
        if (slash <= 0) break; // one name of more than 4,095 bytes: the kernel says ENAMETOOLONG
        const next = openOnce(at, rest.subarray(0, slash), OPEN_NAME | constants.O_DIRECTORY, 0);
        if (at !== dirFd) close(at);
        at = dirFd;
        at = checked(next, 'openat2', path);
        rest = rest.subarray(slash + 1);
      }
      return checked(openOnce(at, rest, flags, mode), 'openat2', path);
    } finally {
      if (at !== dirFd) close(at);
    }
  };

  const getXattrs = (fd: number, most = Number.MAX_SAFE_INTEGER): readonly Xattr[] => {
    const found = addon.getXattrs(fd, most);
    if (found === undefined) return NO_XATTRS;
    const flat = taken(found, 'getxattr');
    const result: Xattr[] = [];
    for (let i = 0; i + 1 < flat.length; i += 2) result.push({ name: flat[i] ?? EMPTY, value: flat[i + 1] ?? EMPTY });
    return result;
  };

  return {
    openAt: (dirFd, name, flags, mode = 0) => checked(addon.openAt(dirFd, name, flags, mode), 'openat', name),
    openBeneath,
    closeFd: close,
    readDirectory: (fd) => taken(addon.readDirectory(fd), 'getdents64'),
    statAt(dirFd, name, out, at = 0) {
      checked(addon.statAt(dirFd, name, out, at), 'statx', name);
    },
    statListing(dirFd, { bytes, ends }, out) {
      checked(addon.statListing(dirFd, bytes, ends, out), 'statx');
    },
    readLinkAt: (dirFd, name) => taken(addon.readLinkAt(dirFd, name), 'readlinkat', name),
    getXattrs,
    getXattrsAt(dirFd, name, most) {
      const fd = checked(addon.openAt(dirFd, name, OPEN_NAME, 0), 'openat', name);
      try {
        return getXattrs(fd, most);
      } finally {
        close(fd);
      }
    },
    readInto: (fd, buffer, offset, length, position) =>
      checked(addon.readInto(fd, buffer, offset, length, position), 'pread'),
    dataSegments: (fd, size) => taken(addon.dataSegments(fd, size), 'lseek'),
    mkdirAt(dirFd, name, mode) {
      checked(addon.mkdirAt(dirFd, name, mode), 'mkdirat', name);
    },
    mknodAt(dirFd, name, mode, major = 0, minor = 0) {
      checked(addon.mknodAt(dirFd, name, mode, major, minor), 'mknodat', name);
    },
    symlinkAt(target, dirFd, name) {
      checked(addon.symlinkAt(target, dirFd, name), 'symlinkat', name);
    },
    linkAt(fromDirFd, from, toDirFd, to) {
      checked(addon.linkAt(fromDirFd, from, toDirFd, to), 'linkat', to);
    },
    linkFd(fd, toDirFd, to) {
      checked(addon.linkFd(fd, toDirFd, to), 'linkat', to);
    },
    renameAt(fromDirFd, from, toDirFd, to, { noReplace = false } = {}) {
      checked(addon.renameAt(fromDirFd, from, toDirFd, to, noReplace ? 1 : 0), 'renameat2', to);
    },
    unlinkAt(dirFd, name, { directory = false } = {}) {
      checked(addon.unlinkAt(dirFd, name, directory ? 1 : 0), 'unlinkat', name);
    },
    chownAt(dirFd, name, uid, gid) {
      checked(addon.chownAt(dirFd, name, uid, gid), 'fchownat', name);
    },
    chmodFd(fd, mode) {
      checked(addon.chmodFd(fd, mode), 'fchmod');
    },
    utimesAt(dirFd, name, { atimeSec, atimeNsec, mtimeSec, mtimeNsec }) {
      checked(addon.utimesAt(dirFd, name, atimeSec, atimeNsec, mtimeSec, mtimeNsec), 'utimensat', name);
    },
    setXattr(fd, name, value) {
      checked(addon.setXattr(fd, name, value), 'setxattr', name);
    },
    removeXattr(fd, name) {
      checked(addon.removeXattr(fd, name), 'removexattr', name);
    },
    writeFrom(fd, buffer, offset, length, position) {
      checked(addon.writeFrom(fd, buffer, offset, length, position), 'pwrite');
    },
    punchHole(fd, position, length) {
      checked(addon.punchHole(fd, position, length), 'fallocate');
    },
    truncateFd(fd, size) {
      checked(addon.truncateFd(fd, size), 'ftruncate');
    },
  };
};

/** Relative, and each component a real name. */
const isInner = (path: Buffer): boolean => {
  for (let start = 0; start <= path.length; ) {
    const slash = path.indexOf(SLASH, start);
    const end = slash < 0 ? path.length : slash;
    const length = end - start;
    if (length === 0 || (length === 1 && path[start] === 0x2e)) return false;
    if (length === 2 && path[start] === 0x2e && path[start + 1] === 0x2e) return false;
    start = end + 1;
  }
  return true;
};
