import { constants } from 'node:fs';
import { EMPTY, type FileCalls, OMIT, OPEN_DIRECTORY, OPEN_NAME, STAT, STAT_FIELDS } from '@aegis/native/files';
import { errorCode, SystemError } from '@aegis/native/system-error';
import { ACL_ACCESS, ACL_DEFAULT } from '../acl-text.ts';
import type { Entry } from '../manifest/lines.ts';
import { MOST_XATTR_BYTES, type TarEntry } from '../tar-header.ts';
import type { Overwrite } from './backup.ts';
import type { Level } from './target-tree.ts';
import { gainsPower, isAcl, powerless, type Wishes, wantedMode, wantsXattr } from './wishes.ts';

/** What every kind of entry shares on its way into a folder of the target: whether it may come there, a temporary name, owner, attributes, mode and
 *  times, and the one rename that gives it its name. */

export type Choice = 'new' | 'replace' | 'replace-tree' | 'skip';

export interface PlacingDeps {
  files: FileCalls;
  wishes: Wishes;
  overwrite: Overwrite;
  /** A folder may give way to something else. */
  replaceFolders: boolean;
  /** Whose is what this process makes. */
  ownUid(): number;
  /** Unguessable; made for one restore. */
  temporaryPrefix: string;
  /** What could not be set on an entry that is restored all the same. */
  onFlaw(path: Buffer, code: string, message: string): void;
  /** Removes a folder with all that is in it. */
  removeTree(level: Level, name: Buffer): void;
}

/** Of a file that was made. Its owner is a part: whoever may write to its folder can take it away and get its inode for a file of his own. */
export interface Identity {
  device: number;
  high: number;
  low: number;
  uid: number;
  gid: number;
}

/** Where something is until it is complete. */
export interface Temporary {
  dirFd: number;
  name: Buffer;
  /** A folder of its own in the level; null: the level itself. */
  folder: Buffer | null;
}

export type Placing = ReturnType<typeof placing>;

export const placing = (deps: PlacingDeps) => {
  const { files, wishes, overwrite } = deps;
  const stat = new Float64Array(STAT_FIELDS);
  let count = 0;
  const temporaryName = (): Buffer => Buffer.from(`${deps.temporaryPrefix}${(count++).toString(36)}`);

  /** @throws SystemError EISDIR where a folder stands that may not go */
  const choose = (level: Level, name: Buffer, entry: Entry): Choice => {
    // In a folder of our own nothing is expected; the rename finds out, and replaces nothing.
    if (level.absent || level.fresh) return 'new';
    try {
      files.statAt(level.fd, name, stat);
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return 'new';
      throw error;
    }
    if (overwrite === 'never' || (overwrite === 'if-newer' && !isNewer(entry.mtime, stat))) return 'skip';
    if (((stat[STAT.mode] ?? 0) & S_IFMT) !== S_IFDIR) return 'replace';
    if (deps.replaceFolders) return 'replace-tree';
    throw new SystemError(EISDIR, 'renameat2', name);
  };

  /** A new name in the folder, made by `make`; another one while the name is taken. */
  const withTemporary = <T>(make: (name: Buffer) => T): { name: Buffer; made: T } => {
    for (let attempt = 0; ; attempt++) {
      const name = temporaryName();
      try {
        return { name, made: make(name) };
      } catch (error) {
        if (errorCode(error) !== 'EEXIST' || attempt === MOST_ATTEMPTS) throw error;
      }
    }
  };

  const discard = (level: Level, temporary: Temporary): void => {
    try {
      files.unlinkAt(temporary.dirFd, temporary.name);
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') throw error;
    } finally {
      leave(level, temporary);
    }
  };
  /** Its folder, if it has one, is of no more use. */
  const leave = (level: Level, { dirFd, folder }: Temporary): void => {
    if (folder === null) return;
    files.closeFd(dirFd);
    try {
      files.unlinkAt(level.fd, folder, { directory: true });
    } catch (error) {
      if (!(error instanceof SystemError)) throw error; // somebody took it away
    }
  };

  /** A folder that nobody else gets into, whatever happens around it; null where there is none to be had: the file system decides modes itself, or
   *  somebody put another one in its place. */
  const privateFolder = (level: Level): { dirFd: number; folder: Buffer } | null => {
    const { name: folder } = withTemporary((one) => files.mkdirAt(level.fd, one, 0o700));
    const dirFd = files.openAt(level.fd, folder, OPEN_DIRECTORY);
    try {
      files.statAt(dirFd, EMPTY, stat);
    } catch (error) {
      files.closeFd(dirFd);
      throw error;
    }
    if (stat[STAT.uid] === deps.ownUid() && ((stat[STAT.mode] ?? 0) & 0o077) === 0) return { dirFd, folder };
    leave(level, { dirFd, name: EMPTY, folder });
    return null;
  };

  /** Owner, attributes, mode, times. `before`: what else it may have by now. Of a descriptor, so of the very thing that was made. */
  const dress = (fd: number, header: TarEntry, path: Buffer, before: 'clean' | 'inherits-acl' | 'used'): void => {
    const flaw = (what: string, work: () => void): void => {
      try {
        work();
      } catch (error) {
        if (!(error instanceof SystemError)) throw error;
        deps.onFlaw(path, error.code, `was restored without ${what}: ${error.message}`);
      }
    };
    if (wishes.owners) flaw('its owner', () => files.chownAt(fd, EMPTY, header.uid, header.gid));
    if (before === 'inherits-acl') flaw('losing an inherited ACL', () => takeAcls(fd, header));
    if (before === 'used') flaw('losing attributes that it had', () => takeOthers(fd, header));
    for (const xattr of header.xattrs)
      if (wantsXattr(wishes, xattr.name))
        flaw(isAcl(xattr) ? 'an ACL' : 'an extended attribute', () => files.setXattr(fd, xattr.name, xattr.value));
    if (header.kind !== 'symlink') flaw('its mode', () => files.chmodFd(fd, wantedMode(wishes, header)));
    flaw('its time', () => files.utimesAt(fd, EMPTY, timesOf(header)));
  };
  const takeAcls = (fd: number, header: TarEntry): void => {
    for (const name of header.kind === 'directory' ? [ACL_ACCESS, ACL_DEFAULT] : [ACL_ACCESS])
      try {
        files.removeXattr(fd, Buffer.from(name));
      } catch (error) {
        if (errorCode(error) !== 'ENODATA' && errorCode(error) !== 'EOPNOTSUPP') throw error;
      }
  };

  const takeOthers = (fd: number, { xattrs }: TarEntry): void => {
    for (const { name } of files.getXattrs(fd, MOST_XATTR_BYTES))
      if (wantsXattr(wishes, name) && !xattrs.some((one) => one.name.equals(name))) files.removeXattr(fd, name);
  };

  /** Gives what is complete its name. False when something else took the name meanwhile and stays. */
  const commit = (level: Level, temporary: Temporary, name: Buffer, choice: Choice): boolean => {
    const replace = (): void => files.renameAt(temporary.dirFd, temporary.name, level.fd, name);
    try {
      if (choice === 'replace-tree') deps.removeTree(level, name);
      if (choice === 'new') renameNew(level, temporary, name, replace);
      else replace();
    } catch (error) {
      discard(level, temporary);
      if (choice === 'new' && errorCode(error) === 'EEXIST') return false;
      throw error;
    }
    leave(level, temporary);
    return true;
  };
  const renameNew = (level: Level, { dirFd, name: from }: Temporary, name: Buffer, replace: () => void): void => {
    try {
      files.renameAt(dirFd, from, level.fd, name, { noReplace: true });
    } catch (error) {
      const code = errorCode(error);
      if (code === 'EEXIST' && overwrite === 'always') replace();
      else if (code === 'EINVAL' || code === 'ENOSYS') {
        files.linkAt(dirFd, from, level.fd, name); // not every file system knows the other way
        files.unlinkAt(dirFd, from);
      } else throw error;
    }
  };

  return {
    temporaryName,
    modeOf: (header: TarEntry): number => wantedMode(wishes, header),
    /** Null: the caller's. */
    ownerOf: <T>(owner: T): T | null => (wishes.owners ? owner : null),
    choose,
    withTemporary,
    discard,
    dress,
    commit,
    /** An empty file, for the caller alone. One that will be executed with more than its caller's power is in a folder of its own until it has its
     *  mode: its owner, who has it before, could else write what he likes into it, and get that power for it.
     *  @returns `header` as the file may have it */
    createFile: (level: Level, header: TarEntry): { temporary: Temporary; fd: number; header: TarEntry } => {
      const own = gainsPower(wishes, header) ? privateFolder(level) : undefined;
      const place = own ?? { dirFd: level.fd, folder: null };
      if (own === null) deps.onFlaw(header.path, 'EPERM', POWERLESS);
      try {
        const { name, made: fd } = withTemporary((one) => files.openAt(place.dirFd, one, CREATE, 0o600));
        return { temporary: { ...place, name }, fd, header: own === null ? powerless(header) : header };
      } catch (error) {
        leave(level, { ...place, name: EMPTY });
        throw error;
      }
    },
    gainsPower: (header: TarEntry): boolean => gainsPower(wishes, header),
    /** What was just made under a temporary name, when it is that still.
     *  @throws SystemError EEXIST for something that another one put there */
    openMade: (level: Level, name: Buffer, type: number): number => {
      const fd = files.openAt(level.fd, name, OPEN_NAME);
      try {
        files.statAt(fd, EMPTY, stat);
        const same = ((stat[STAT.mode] ?? 0) & S_IFMT) === type && stat[STAT.links] === 1;
        if (!same || stat[STAT.uid] !== deps.ownUid()) throw new SystemError(EEXIST, 'openat', name);
        return fd;
      } catch (error) {
        files.closeFd(fd);
        throw error;
      }
    },
    identityOf: (dirFd: number, name: Buffer): Identity => {
      files.statAt(dirFd, name, stat);
      return {
        device: (stat[STAT.devMajor] ?? 0) * 2 ** 32 + (stat[STAT.devMinor] ?? 0),
        high: stat[STAT.inodeHigh] ?? 0,
        low: stat[STAT.inodeLow] ?? 0,
        uid: stat[STAT.uid] ?? 0,
        gid: stat[STAT.gid] ?? 0,
      };
    },
  };
};

export const isNewer = (mtime: string, stat: Float64Array): boolean => {
  const [sec = '0', nsec = '0'] = mtime.split('.');
  const difference = Number(sec) - (stat[STAT.mtimeSec] ?? 0);
  return difference > 0 || (difference === 0 && Number(nsec) > (stat[STAT.mtimeNsec] ?? 0));
};

export const timesOf = ({ mtimeSec, mtimeNsec }: TarEntry) => ({ atimeSec: 0, atimeNsec: OMIT, mtimeSec, mtimeNsec });

const POWERLESS =
  'was restored without setuid, setgid and file capabilities: the file system of its folder keeps no one out while it is made';
const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const EEXIST = 17;
const EISDIR = 21;
const MOST_ATTEMPTS = 16;
const CREATE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
