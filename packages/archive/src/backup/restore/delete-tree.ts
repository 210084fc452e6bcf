import { EMPTY, type FileCalls, nameAt, OPEN_DIRECTORY, STAT, STAT_FIELDS } from '@aegis/native/files';
import { SystemError } from '@aegis/native/system-error';

/** Removes a name with all below it, following nothing and leaving other file systems alone. Tells each removal.
 *  @throws SystemError; what was removed before is gone */
export const deleteTree = (
  files: FileCalls,
  parentFd: number,
  name: Buffer,
  onDeleted: (path: readonly Buffer[]) => void,
  dryRun = false,
): void => {
  const stat = new Float64Array(STAT_FIELDS);
  files.statAt(parentFd, EMPTY, stat);
  const mount = mountOf(stat);
  const remove = (dirFd: number, path: readonly Buffer[]): void => {
    const last = path.at(-1) ?? EMPTY;
    files.statAt(dirFd, last, stat);
    if (!isDirectory(stat)) {
      if (!dryRun) files.unlinkAt(dirFd, last);
      onDeleted(path);
      return;
    }
    if (mountOf(stat) !== mount) throw new SystemError(EBUSY, 'unlinkat', last);
    if (path.length > MOST_LEVELS) throw new SystemError(ENAMETOOLONG, 'unlinkat', last);
    const fd = files.openAt(dirFd, last, OPEN_DIRECTORY);
    try {
      const listing = files.readDirectory(fd);
      for (let at = 0; at < listing.ends.length; at++) remove(fd, [...path, nameAt(listing, at)]);
    } finally {
      files.closeFd(fd);
    }
    if (!dryRun) files.unlinkAt(dirFd, last, { directory: true });
    onDeleted(path);
  };
  remove(parentFd, [name]);
};

/** Whether another file system (or another part of one) begins with this directory. */
export const isMountPoint = (files: FileCalls, fd: number): boolean => {
  const stat = new Float64Array(STAT_FIELDS);
  files.statAt(fd, EMPTY, stat);
  const own = mountOf(stat);
  files.statAt(fd, PARENT, stat);
  return mountOf(stat) !== own;
};
const PARENT = Buffer.from('..');

const EBUSY = 16;
const ENAMETOOLONG = 36;
/** Each holds a descriptor. */
const MOST_LEVELS = 500;

/** The mount, also of a directory that is bound to another place of the same file system; where the kernel does not tell, the device. */
const mountOf = (stat: Float64Array): string => {
  const id = stat[STAT.mountId] ?? -1;
  return id >= 0 ? String(id) : `${stat[STAT.devMajor]}:${stat[STAT.devMinor]}`;
};
const isDirectory = (stat: Float64Array): boolean => ((stat[STAT.mode] ?? 0) & 0o170000) === 0o040000;
