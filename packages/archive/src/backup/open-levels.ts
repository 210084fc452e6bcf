import { EMPTY, type FileCalls, type Listing, OPEN_DIRECTORY, STAT_FIELDS } from '@aegis/native/files';
import { SystemError } from '@aegis/native/system-error';
import type { DirectoryView } from './select/selection.ts';
import { type Identity, isThe } from './source-stat.ts';

/** The directories from a source down to where the scan is, of which the outermost and the innermost ones are open: the tree may be deeper
 *  than a process may have descriptors, and paths in it longer than the kernel takes. */

export interface Level {
  /** -1 while it is closed because the scan is far below it. */
  fd: number;
  /** Absolute. */
  path: Buffer;
  name: Buffer;
  identity: Identity;
  listing: Listing;
  /** Of the listing, what comes next. */
  index: number;
  /** Names, as latin1, that are looked at; null for all. */
  only: ReadonlySet<string> | null;
  view: DirectoryView;
  /** On another file system than the directory that it is in: looked at again when it was walked, in case that it was unmounted. */
  mounted: boolean;
}

export const KEEP_OPEN = 64;
const PARENT = Buffer.from('..');

export class OpenLevels {
  readonly #files: FileCalls;
  readonly #keepOpen: number;
  readonly #levels: Level[] = [];
  readonly #stat = new Float64Array(STAT_FIELDS);

  constructor(files: FileCalls, keepOpen: number = KEEP_OPEN) {
    this.#files = files;
    this.#keepOpen = Math.max(keepOpen, 2);
  }

  get innermost(): Level | undefined {
    return this.#levels.at(-1);
  }

  push(level: Level): void {
    this.#levels.push(level);
    const far = this.#levels[this.#levels.length - this.#keepOpen];
    if (!far || far === this.#levels[0]) return;
    this.#files.closeFd(far.fd);
    far.fd = -1;
  }

  /** Leaves the innermost one. The next one is open again when `before` is called, where it could be found; then the descriptor of
   *  the one that was left is closed.
   *  @returns levels that could not be found again, from the inside out: whatever they still had is lost to the scan */
  pop(before: (left: Level, into: Level | undefined) => void): Level[] {
    const left = this.#levels.pop();
    if (!left) return [];
    const lost: Level[] = [];
    try {
      const into = this.#levels.at(-1);
      if (into && into.fd < 0) into.fd = this.#reopen(into, left.fd);
      while (this.#levels.length > 0 && this.#innermostIsLost()) {
        const gone = this.#levels.pop();
        if (gone) lost.push(gone);
      }
      if (lost.length === 0) before(left, into);
    } finally {
      this.#files.closeFd(left.fd);
    }
    return lost;
  }

  closeAll(): void {
    for (const level of this.#levels.splice(0)) if (level.fd >= 0) this.#files.closeFd(level.fd);
  }

  /** Closed, and not to be found from the outermost one either. */
  #innermostIsLost(): boolean {
    const level = this.#levels.at(-1);
    if (!level || level.fd >= 0) return false;
    level.fd = this.#reopenFromOutermost(level);
    return level.fd < 0;
  }

  /** Through `..` of the directory that was left: one call, whatever the depth. */
  #reopen(level: Level, childFd: number): number {
    return this.#checked(level, () => this.#files.openAt(childFd, PARENT, OPEN_DIRECTORY));
  }

  #reopenFromOutermost(level: Level): number {
    const outermost = this.#levels[0];
    if (!outermost || outermost === level) return -1;
    const from = outermost.path.length === 1 ? 1 : outermost.path.length + 1;
    return this.#checked(level, () => this.#files.openBeneath(outermost.fd, level.path.subarray(from), OPEN_DIRECTORY));
  }

  /** The descriptor, if it is that directory; else -1. */
  #checked(level: Level, open: () => number): number {
    let fd = -1;
    try {
      fd = open();
      this.#files.statAt(fd, EMPTY, this.#stat);
      if (isThe(level.identity, this.#stat)) return fd;
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
    }
    if (fd >= 0) this.#files.closeFd(fd);
    return -1;
  }
}

/** Whether what stands under a name is still that directory. A name that cannot be looked up is not. */
export const stillThere = (files: FileCalls, directoryFd: number, name: Buffer, identity: Identity): boolean => {
  const stat = new Float64Array(STAT_FIELDS);
  try {
    files.statAt(directoryFd, name, stat);
    return isThe(identity, stat);
  } catch (error) {
    if (error instanceof SystemError) return false;
    throw error;
  }
};
