/** scan: walks the sources of a backup and hands out what is to be archived, one thing at a time, files and directories opened;
 *  `create-archive.ts` drives it. Every name is looked up below the descriptor of its directory and never through a symlink; sorted
 *  by bytes, a directory before what it holds. Invariant: descriptors are bounded, memory by the listings of the directories on the
 *  way down, not by the tree. Must not: end for anything that a file or directory does (that is a problem of the list), or block. */
import { constants } from 'node:fs';
import {
  AT_FDCWD,
  EMPTY,
  type FileCalls,
  nameAt,
  O_NOATIME,
  O_PATH,
  OPEN_DIRECTORY,
  STAT,
  STAT_FIELDS,
  TYPE,
} from '@aegis/native/files';
import { errorCode } from '@aegis/native/system-error';
import { directoryView, OPEN_FILE } from './directory-view.ts';
import { MAX_PATH_BYTES } from './manifest/lines.ts';
import { type Level, OpenLevels, stillThere } from './open-levels.ts';
import type { DirectoryView, EntryKind, Selection } from './select/selection.ts';
import { sourcePaths, splitPath, storedPath, walkedPath } from './source-paths.ts';
import { ownProblem, type Problem, problemOf } from './source-problem.ts';
import { deviceOf, field, identityOf, kindOf, type StatNumbers } from './source-stat.ts';

/** All of it holds until the next call of `next`. */
export interface Found {
  type: 'found';
  kind: EntryKind;
  /** Relative to `/`, `.` for the root itself. */
  path: Buffer;
  /** Where it is looked up: for links, xattrs. */
  parentFd: number;
  name: Buffer;
  /** Of files, and of directories that may be read; else -1. */
  fd: number;
  stat: StatNumbers;
}

export interface ScanOptions {
  files: FileCalls;
  /** Absolute. One below another is walked once, and included whatever the selection says of the way to it. */
  sources: readonly Buffer[];
  select: Selection;
  /** False: nothing but directories is opened, for counting. */
  openFiles: boolean;
  keepOpen?: number;
}

interface Source {
  path: Buffer;
  parentFd: number;
  name: Buffer;
}

export class Scan {
  readonly #files: FileCalls;
  readonly #select: Selection;
  readonly #openFiles: boolean;
  readonly #levels: OpenLevels;
  readonly #stat = new Float64Array(STAT_FIELDS);
  readonly #problems: Problem[] = [];
  readonly #sources: Buffer[];
  /** As latin1; a source that was met below another one is gone from here. */
  readonly #left: Set<string>;
  readonly #walked = walkedPath();
  #source: Source | null = null;
  #open: { found: Found; absolute: Buffer; sourceDevice: number } | null = null;
  /** O_NOATIME is for owners and root only: after some refusals nobody asks any more. */
  #noAtimeRefusals = 0;
  /** Of the sources, how many could be looked at, files opened and directories listed. */
  sourcesRead = 0;

  constructor({ files, sources, select, openFiles, keepOpen }: ScanOptions) {
    this.#files = files;
    this.#select = select;
    this.#openFiles = openFiles;
    this.#levels = new OpenLevels(files, keepOpen);
    const { paths, problems } = sourcePaths(sources);
    this.#sources = paths;
    this.#left = new Set(paths.map((path) => path.toString('latin1')));
    this.#problems.push(...problems);
  }

  /** The next thing or problem; null at the end. */
  next(): Found | Problem | null {
    this.#settle();
    for (;;) {
      const problem = this.#problems.shift();
      if (problem) return problem;
      const level = this.#levels.innermost;
      const found = level ? this.#nextOf(level) : this.#nextSource();
      if (found) return found;
      if (!level && this.#sources.length === 0 && this.#problems.length === 0) return null;
    }
  }

  [Symbol.dispose](): void {
    const fd = this.#open?.found.fd ?? -1;
    this.#open = null;
    if (fd >= 0) this.#files.closeFd(fd);
    this.#levels.closeAll();
    this.#closeSource();
  }

  /** What was handed out last is done with: a file is closed, a directory walked into. */
  #settle(): void {
    const open = this.#open;
    this.#open = null;
    if (!open || open.found.fd < 0) return;
    if (open.found.kind === 'directory') this.#enter(open);
    else this.#files.closeFd(open.found.fd);
  }

  #enter({ found, absolute, sourceDevice }: { found: Found; absolute: Buffer; sourceDevice: number }): void {
    const identity = identityOf(found.stat);
    const parent = this.#levels.innermost;
    try {
      const listing = this.#files.readDirectory(found.fd);
      const view = directoryView(this.#files, found.fd, listing, {
        path: absolute,
        device: identity.device,
        sourceDevice,
      });
      const members = this.#select.members(view);
      if (!parent) this.sourcesRead += 1;
      this.#levels.push({
        fd: found.fd,
        path: absolute,
        name: found.name,
        identity,
        listing,
        index: members === 'none' ? listing.ends.length : 0,
        only: typeof members === 'string' ? null : new Set(members.only.map((name) => name.toString('latin1'))),
        view,
        mounted: parent === undefined || parent.identity.device !== identity.device,
      });
    } catch (error) {
      this.#files.closeFd(found.fd);
      this.#problems.push(problemOf(found.path, error));
    }
  }

  #nextOf(level: Level): Found | null {
    const { listing } = level;
    while (level.index < listing.ends.length) {
      const index = level.index++;
      const name = nameAt(listing, index);
      if (level.only && !level.only.has(name.toString('latin1'))) continue;
      const absolute = this.#walked.child(level.path, name);
      const named = this.#left.size > 0 && this.#left.delete(absolute.toString('latin1'));
      if (!named && !this.#select.includesPath(absolute)) continue;
      const found = this.#look(level.fd, name, absolute, named ? null : level.view, listing.types[index] ?? 0);
      if (found || this.#problems.length > 0) return found;
    }
    this.#leave();
    return null;
  }

  #leave(): void {
    const lost = this.#levels.pop((left, into) => {
      if (!left.mounted) return;
      const fd = into ? into.fd : (this.#source?.parentFd ?? -1);
      if (fd >= 0 && !stillThere(this.#files, fd, left.name, left.identity))
        this.#problems.push(
          ownProblem(
            storedPath(left.path),
            'source_changed',
            'was unmounted or replaced while it was read: what follows its last entry in the archive may be missing',
          ),
        );
    });
    for (const level of lost)
      this.#problems.push(
        ownProblem(
          storedPath(level.path),
          'moved',
          `was moved away while it was read: ${level.listing.ends.length - level.index} of its names were not looked at`,
        ),
      );
  }

  #nextSource(): Found | null {
    this.#closeSource();
    const path = this.#sources.shift();
    if (!path || !this.#left.delete(path.toString('latin1'))) return null;
    const { directory, name } = splitPath(path);
    try {
      // Links on the way to a source are followed: an operator named it so.
      const parentFd = this.#files.openAt(AT_FDCWD, directory, O_PATH | constants.O_DIRECTORY);
      this.#source = { path, parentFd, name };
      const found = this.#look(parentFd, name, this.#walked.begin(path), null, TYPE.unknown);
      if (found && found.kind !== 'directory') this.sourcesRead += 1;
      return found;
    } catch (error) {
      this.#problems.push(problemOf(storedPath(path), error));
      return null;
    }
  }

  #closeSource(): void {
    const source = this.#source;
    this.#source = null;
    if (source) this.#files.closeFd(source.parentFd);
  }

  /** @param within null for a source: no selection is asked
   *  @returns null for what is not selected, or a problem, which was noted */
  #look(parentFd: number, name: Buffer, absolute: Buffer, within: DirectoryView | null, type: number): Found | null {
    const path = storedPath(absolute);
    if (path.length > MAX_PATH_BYTES) {
      const message = `is deeper than can be recorded (${MAX_PATH_BYTES} bytes of path)`;
      this.#problems.push(ownProblem(path.subarray(0, 1024), 'path_too_long', message));
      return null;
    }
    let fd = -1;
    try {
      const stat = this.#stat;
      if (type === TYPE.file && this.#openFiles) {
        fd = this.#openAt(parentFd, name, OPEN_FILE);
        this.#files.statAt(fd, EMPTY, stat);
      } else this.#files.statAt(parentFd, name, stat);
      const kind = kindOf(stat);
      const size = field(stat, STAT.size);
      const chosen =
        kind && (!within || this.#select.includes({ path: absolute, kind, size, device: deviceOf(stat) }, within));
      if (!kind || !chosen) return null;
      const found: Found = { type: 'found', kind, path, parentFd, name, fd, stat };
      if (fd < 0 && !this.#openFound(found)) return null;
      this.#open = { found, absolute, sourceDevice: within ? within.sourceDevice : deviceOf(stat) };
      fd = -1;
      return found;
    } catch (error) {
      this.#problems.push(problemOf(path, error));
      return null;
    } finally {
      if (fd >= 0) this.#files.closeFd(fd);
    }
  }

  /** Opens what was only looked up. A directory that may not be opened is handed out all the same: its owner, mode and time are known.
   *  @throws SystemError for a file, and for what is no longer there
   *  @returns false for what is no longer what it was; then a problem was noted */
  #openFound(found: Found): boolean {
    if (found.kind !== 'directory' && !(found.kind === 'file' && this.#openFiles)) return true;
    let fd = -1;
    try {
      fd = this.#openAt(found.parentFd, found.name, found.kind === 'file' ? OPEN_FILE : OPEN_DIRECTORY);
      this.#files.statAt(fd, EMPTY, found.stat);
    } catch (error) {
      if (fd >= 0) this.#files.closeFd(fd);
      if (found.kind === 'file' || GONE.includes(errorCode(error) ?? '')) throw error;
      this.#problems.push(problemOf(found.path, error));
      return true;
    }
    found.fd = fd;
    if (kindOf(found.stat) === found.kind) return true;
    this.#files.closeFd(fd);
    this.#problems.push(ownProblem(found.path, 'moved', 'was replaced by something else while it was looked at'));
    return false;
  }

  #openAt(parentFd: number, name: Buffer, flags: number): number {
    if (this.#noAtimeRefusals >= MOST_NOATIME_REFUSALS) return this.#files.openAt(parentFd, name, flags);
    try {
      return this.#files.openAt(parentFd, name, flags | O_NOATIME);
    } catch (error) {
      if (errorCode(error) !== 'EPERM') throw error;
      this.#noAtimeRefusals += 1;
      return this.#files.openAt(parentFd, name, flags);
    }
  }
}

const MOST_NOATIME_REFUSALS = 16;
const GONE = ['ENOENT', 'ENOTDIR', 'ELOOP'];
