import { constants } from 'node:fs';
import { AT_FDCWD, EMPTY, type FileCalls, OPEN_DIRECTORY, STAT, STAT_FIELDS } from '@aegis/native/files';
import { errorCode, SystemError } from '@aegis/native/system-error';
import { AegisError } from '@aegis/protocol/errors';
import { ACL_DEFAULT } from '../acl-text.ts';
import type { Entry } from '../manifest/lines.ts';
import { MOST_XATTR_BYTES, type TarEntry } from '../tar-header.ts';
import { isBelow, isRoot } from './path-order.ts';

/** The folders of the target on the way to where a restore is. Each is opened below the one before it, never through a symlink; its mode, owner and
 *  time are set when the restore leaves it, so that they last, and so that nobody else gets into one that is not finished.
 *  Must not: hold more descriptors than a process may have, however deep the tree is. */

export interface Level {
  /** -1: closed because the restore is far below it, or not there in a dry run. */
  fd: number;
  /** Where its path ends in the tree's current path; 0 for the target itself. */
  end: number;
  /** Made by this restore, so nothing of another's is in it. */
  fresh: boolean;
  /** In a dry run: it would be made. */
  absent: boolean;
  /** What is made in it inherits an ACL that the backup does not know of. */
  inheritsAcl: boolean;
  identity: { mount: number; high: number; low: number };
  /** Of its own entry, when it is to be finished. */
  finish: FinishDirectory | null;
  /** Files that are still being written into it: until then it stays open. */
  pending: number;
  /** Called when the last of them is written, if the restore has left it by then. */
  whenDone: (() => void) | null;
}

export interface FinishDirectory {
  /** Null: what it is like stays. */
  header: TarEntry | null;
  /** Names below it that the backup has, as latin1, where others are to go. */
  seen: Set<string> | null;
}

export interface TreeOptions {
  files: FileCalls;
  target: string;
  dryRun: boolean;
  /** A name that nobody else uses, for a moment. */
  probeName: Buffer;
  /** Mode for a directory that has to be made though it has no entry that is restored. */
  modeOf(path: Buffer): number;
  /** Called when the restore leaves a directory for good; it is still open. */
  leave(level: Level, path: Buffer): void;
  /** Directories whose entries are scattered are finished at the end. */
  scattered: ReadonlySet<string>;
}

const KEEP_OPEN = 64;
const PARENT = Buffer.from('..');
const SLASH = 0x2f;
const ROOT = Buffer.from('.');

export class TargetTree {
  readonly #options: TreeOptions;
  readonly #files: FileCalls;
  readonly #levels: Level[] = [];
  readonly #later = new Map<string, { path: Buffer; finish: FinishDirectory }>();
  readonly #stat = new Float64Array(STAT_FIELDS);
  /** Whose is what this process makes in the target: not its own user's where the file system decides that (vfat, NFS with squashed root). */
  readonly ownUid: number;
  /** Of the innermost level. */
  #path: Buffer = EMPTY;

  /** @throws AegisError backups.unsafe_target */
  constructor(options: TreeOptions) {
    this.#options = options;
    this.#files = options.files;
    const path = Buffer.from(options.target);
    let fresh = false;
    let fd = -1;
    try {
      fd = this.#openTarget(path);
      if (fd < 0 && !options.dryRun) {
        this.#files.mkdirAt(AT_FDCWD, path, 0o700);
        fresh = true;
        fd = this.#openTarget(path);
      }
    } catch (cause) {
      throw new AegisError(
        'backups.unsafe_target',
        `The target ${options.target} cannot be opened or made (${errorCode(cause) ?? 'unknown'}): its parent must be a folder, and you must be allowed to write there.`,
        { cause },
      );
    }
    this.ownUid = fd < 0 || options.dryRun ? -1 : this.#probeUid(fd);
    this.#levels.push(this.#level(fd, 0, fresh, fd >= 0 && !fresh && this.#hasDefaultAcl(fd)));
  }

  get targetFd(): number {
    return this.#levels[0]?.fd ?? -1;
  }

  get innermost(): Level {
    const level = this.#levels.at(-1);
    if (!level) throw new Error('the target is closed');
    return level;
  }

  /** The directory of `path` (empty: the target). Leaves and enters what it takes.
   *  @throws SystemError ELOOP, ENOTDIR where something else stands in the way */
  open(path: Buffer): Level {
    if (path.length === this.#path.length && path.equals(this.#path)) return this.innermost;
    this.#leaveUntil(path);
    while (this.innermost.end < path.length) {
      const from = this.innermost.end === 0 ? 0 : this.innermost.end + 1;
      const slash = path.indexOf(SLASH, from);
      const end = slash < 0 ? path.length : slash;
      this.#enter(path.subarray(0, end), path.subarray(from, end));
    }
    return this.innermost;
  }

  /** The directory that `entry` is, made where it is missing; `replace` says whether what stands in its way may go.
   *  @throws SystemError EEXIST where it may not */
  enter(entry: Entry, replace: (stat: Float64Array) => boolean): Level {
    if (isRoot(entry.path)) {
      this.#leaveUntil(EMPTY);
      return this.innermost;
    }
    const slash = entry.path.lastIndexOf(SLASH);
    this.open(entry.path.subarray(0, Math.max(slash, 0)));
    return this.#enter(entry.path, entry.path.subarray(slash + 1), replace);
  }

  /** Leaves everything; then finishes what was put off. No file may be pending any more. */
  finish(): void {
    this.#leaveUntil(EMPTY);
    const later = [...this.#later.values()].sort((a, b) => b.path.length - a.path.length);
    this.#later.clear();
    for (const { path, finish } of later) {
      this.open(path).finish = finish;
      this.#leave(true);
    }
    this.#leaveUntil(EMPTY);
    const target = this.innermost;
    if (target.finish) this.#options.leave(target, ROOT);
    target.finish = null;
  }

  close(): void {
    for (const level of this.#levels.splice(0)) if (level.fd >= 0) this.#files.closeFd(level.fd);
  }

  #openTarget(path: Buffer): number {
    try {
      return this.#files.openAt(AT_FDCWD, path, OPEN_TARGET);
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return -1;
      throw error;
    }
  }

  /** By a descriptor, so of nothing that another one could put there. Where nothing can be made, every entry will say why. */
  #probeUid(fd: number): number {
    const own = process.geteuid?.() ?? -1;
    let probe: number;
    try {
      probe = this.#files.openAt(fd, this.#options.probeName, CREATE, 0o600);
    } catch (error) {
      if (error instanceof SystemError) return own;
      throw error;
    }
    try {
      this.#files.statAt(probe, EMPTY, this.#stat);
      return this.#stat[STAT.uid] ?? own;
    } finally {
      this.#files.closeFd(probe);
      this.#files.unlinkAt(fd, this.#options.probeName);
    }
  }

  #level(fd: number, end: number, fresh: boolean, inheritsAcl: boolean): Level {
    const stat = this.#stat;
    if (fd >= 0) this.#files.statAt(fd, EMPTY, stat);
    // Whoever may write to the folder above can put another one in its place: one of his own, or one that is ours and has something in it.
    if (fresh && fd >= 0 && (stat[STAT.uid] !== this.ownUid || this.#files.readDirectory(fd).ends.length > 0)) {
      this.#files.closeFd(fd);
      throw moved();
    }
    return {
      fd,
      end,
      fresh,
      absent: fd < 0,
      inheritsAcl,
      identity: identityOf(stat),
      finish: null,
      pending: 0,
      whenDone: null,
    };
  }

  #hasDefaultAcl(fd: number): boolean {
    try {
      return this.#files.getXattrs(fd, MOST_XATTR_BYTES).some(({ name }) => name.toString('latin1') === ACL_DEFAULT);
    } catch (error) {
      if (errorCode(error) === 'E2BIG') return true; // too many to look at: taken for one
      throw error;
    }
  }

  #enter(path: Buffer, name: Buffer, replace?: (stat: Float64Array) => boolean): Level {
    const parent = this.innermost;
    let level: Level;
    if (parent.absent) level = this.#level(-1, path.length, true, false);
    else {
      const { fd, fresh } = this.#openOrMake(parent, path, name, replace);
      const inherits = fd >= 0 && (fresh ? parent.inheritsAcl : this.#hasDefaultAcl(fd));
      level = this.#level(fd, path.length, fresh, inherits);
      if (fresh && fd >= 0 && !replace) this.#files.chmodFd(fd, this.#options.modeOf(path)); // whatever the umask is
    }
    const put = this.#later.get(path.toString('latin1'));
    if (put) level.finish = put.finish;
    this.#levels.push(level);
    this.#path = path;
    const far = this.#levels[this.#levels.length - KEEP_OPEN];
    if (far && far.end > 0 && far.fd >= 0 && far.pending === 0) {
      this.#files.closeFd(far.fd);
      far.fd = -1;
    }
    return level;
  }

  #openOrMake(
    parent: Level,
    path: Buffer,
    name: Buffer,
    replace: ((stat: Float64Array) => boolean) | undefined,
  ): { fd: number; fresh: boolean } {
    try {
      return { fd: this.#files.openAt(parent.fd, name, OPEN_DIRECTORY), fresh: false };
    } catch (error) {
      const code = errorCode(error);
      if (code === 'ENOTDIR' || code === 'ELOOP') {
        this.#files.statAt(parent.fd, name, this.#stat);
        if (!replace?.(this.#stat)) throw error;
        if (this.#options.dryRun) return { fd: -1, fresh: true };
        this.#files.unlinkAt(parent.fd, name);
      } else if (code !== 'ENOENT') throw error;
    }
    if (this.#options.dryRun) return { fd: -1, fresh: true };
    this.#files.mkdirAt(parent.fd, name, replace ? 0o700 : this.#options.modeOf(path));
    return { fd: this.#files.openAt(parent.fd, name, OPEN_DIRECTORY), fresh: true };
  }

  #leaveUntil(path: Buffer): void {
    while (this.innermost.end > 0 && !this.#path.equals(path) && !isBelow(path, this.#path)) this.#leave(false);
  }

  #leave(forGood: boolean): void {
    const left = this.innermost;
    const path = this.#path;
    const key = left.finish && !forGood ? path.toString('latin1') : '';
    const putOff = left.finish !== null && key !== '' && this.#options.scattered.has(key);
    if (putOff && left.finish) this.#later.set(key, { path: Buffer.from(path), finish: left.finish });
    const done = (): void => {
      try {
        if (left.finish && !putOff) this.#options.leave(left, path);
      } finally {
        if (left.fd >= 0) this.#files.closeFd(left.fd);
        left.fd = -1;
      }
    };
    this.#levels.pop();
    const into = this.innermost;
    this.#path = path.subarray(0, into.end);
    try {
      if (into.fd < 0 && !into.absent) into.fd = this.#reopen(into, left.fd);
    } finally {
      if (left.pending > 0) left.whenDone = done;
      else done();
    }
  }

  /** Through `..` of the directory that is left, when that still is the one it was; else from the target on.
   *  @throws SystemError when it is gone, or was moved */
  #reopen(level: Level, childFd: number): number {
    for (const open of [
      () => this.#files.openAt(childFd, PARENT, OPEN_DIRECTORY),
      () => this.#files.openBeneath(this.#levels[0]?.fd ?? -1, this.#path, OPEN_DIRECTORY),
    ]) {
      let fd = -1;
      try {
        fd = open();
        this.#files.statAt(fd, EMPTY, this.#stat);
        const { mount, high, low } = identityOf(this.#stat);
        if (mount === level.identity.mount && high === level.identity.high && low === level.identity.low) return fd;
      } catch (error) {
        if (!(error instanceof SystemError)) throw error;
      }
      if (fd >= 0) this.#files.closeFd(fd);
    }
    throw moved();
  }
}

const moved = () =>
  new AegisError(
    'backups.unsafe_target',
    'A folder of the target was moved or replaced while it was restored into. Restore into a folder that nobody else changes.',
  );

const CREATE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
/** The target is the caller's word: symlinks on the way to it, and it itself, are followed. */
const OPEN_TARGET = constants.O_RDONLY | constants.O_DIRECTORY;
const identityOf = (stat: Float64Array): Level['identity'] => ({
  mount: (stat[STAT.devMajor] ?? 0) * 2 ** 32 + (stat[STAT.devMinor] ?? 0),
  high: stat[STAT.inodeHigh] ?? 0,
  low: stat[STAT.inodeLow] ?? 0,
});
