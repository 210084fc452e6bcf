import {
  closeSync,
  constants,
  fchmodSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmdirSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import type { ByteSource } from '@aegis/archive/backup/bytes';
import { AegisError } from '@aegis/protocol/errors';
import { errnoOf } from '../platform/process.ts';

/** Folders of a `file` destination: opened one by one below its path, without following a link; so whoever may write there leads neither
 *  an archive nor its removal anywhere else. The path itself is the operator's word, and is there already: a share that is not mounted is no
 *  place for archives. */

const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_DIRECTORY, O_NOFOLLOW } = constants;

/** A folder that is held open; what is in it is named through it. */
export interface Folder extends Disposable {
  readonly path: string;
  at(name: string): string;
  sync(): void;
}

const hold = (fd: number): Folder => ({
  path: `/proc/self/fd/${fd}`,
  at: (name) => `/proc/self/fd/${fd}/${plain(name)}`,
  sync: () => fsyncSync(fd),
  [Symbol.dispose]: () => closeSync(fd),
});
const plain = (name: string): string => {
  if (name === '' || name === '.' || name === '..' || /[/\0]/.test(name))
    throw new AegisError('backups.bad_destination', `'${name}' is no name below a destination.`);
  return name;
};

/** `segments` below `root`, made where they are missing if `make`.
 *  @throws AegisError backups.destination_failed; null when something is not there and is not made */
export const openFolder = (root: string, segments: readonly string[], { make }: { make: boolean }): Folder | null => {
  let fd = openRoot(root);
  for (const segment of segments) {
    const path = `/proc/self/fd/${fd}/${plain(segment)}`;
    try {
      if (make) {
        try {
          mkdirSync(path, { mode: 0o700 });
          fsyncSync(fd);
        } catch (error) {
          if (errnoOf(error) !== 'EEXIST') throw error;
        }
      }
      const next = openSync(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      closeSync(fd);
      fd = next;
    } catch (cause) {
      closeSync(fd);
      if (!make && errnoOf(cause) === 'ENOENT') return null;
      throw destinationFailed(`${root}: '${segment}' below it cannot be opened (${errnoOf(cause)})`, cause);
    }
  }
  return hold(fd);
};

const openRoot = (root: string): number => {
  try {
    return openSync(root, O_RDONLY | O_DIRECTORY);
  } catch (cause) {
    throw destinationFailed(
      `The destination ${root} is not there (${errnoOf(cause)}): make the folder, or mount it`,
      cause,
    );
  }
};

const NO_ROOM: readonly string[] = ['ENOSPC', 'EDQUOT', 'EFBIG'];
export const destinationFailed = (what: string, cause: unknown): AegisError => {
  const errno = errnoOf(cause);
  return errno !== undefined && NO_ROOM.includes(errno)
    ? new AegisError('backups.destination_full', `The destination is full (${what}): make room there.`, { cause })
    : new AegisError('backups.destination_failed', `${what}.`, { cause });
};

/** Opens a new file under a temporary name. */
export const newFile = (folder: Folder, name: string): number => {
  const fd = openSync(folder.at(temporary(name)), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  fchmodSync(fd, 0o600);
  return fd;
};
/** Makes what was written durable, under its final name. Closes it. */
export const keepFile = (folder: Folder, name: string, fd: number): void => {
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(folder.at(temporary(name)), folder.at(name));
  folder.sync();
};
export const writeFile = (folder: Folder, name: string, bytes: Buffer): void => {
  const fd = newFile(folder, name);
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  keepFile(folder, name, fd);
};
const temporary = (name: string): string => `.${name}.part`;

/** What former attempts of a run left below its folder, when the process died in the middle of one. */
export const removeAttempts = (root: string, runSegments: readonly string[]): void => {
  const run = openFolder(root, runSegments, { make: false });
  if (!run) return;
  try {
    for (const attempt of attemptsIn(run)) removeAttempt(root, runSegments, attempt);
  } finally {
    run[Symbol.dispose]();
  }
};
const attemptsIn = (run: Folder): string[] => readdirSync(run.path).filter((name) => /^\d{1,4}$/.test(name));

/** Removes runs' folders as this node makes them, `<attempt>/<object>`; whatever else lies there stays, and is left alone with its folder. */
export const removeRun = (root: string, segments: readonly string[], runId: string): void => {
  using above = openFolder(root, segments, { make: false });
  if (!above || !isFolder(above.at(runId))) return;
  using run = openFolder(root, [...segments, runId], { make: false });
  if (!run) return;
  for (const attempt of attemptsIn(run)) removeAttempt(root, [...segments, runId], attempt);
  removeEmpty(above, runId);
};
export const removeAttempt = (root: string, segments: readonly string[], attempt: string): void => {
  using above = openFolder(root, segments, { make: false });
  if (!above || !isFolder(above.at(attempt))) return;
  using folder = openFolder(root, [...segments, attempt], { make: false });
  if (!folder) return;
  for (const name of readdirSync(folder.path)) if (OBJECT.test(name)) unlinkSync(folder.at(name));
  removeEmpty(above, attempt);
};
const OBJECT = /^\.?(?:archive\.tar\.zst(?:\.age)?|manifest\.ndjson\.zst(?:\.age)?|statement\.json)(?:\.part)?$/;
const isFolder = (path: string): boolean => {
  try {
    return lstatSync(path).isDirectory();
  } catch {
    return false; // not there
  }
};
const removeEmpty = (above: Folder, name: string): void => {
  try {
    rmdirSync(above.at(name));
  } catch (error) {
    if (errnoOf(error) !== 'ENOTEMPTY') throw error;
  }
  above.sync();
};

const PIECE_BYTES = 1024 * 1024;
/** A file of a destination, to be read in any order. The caller closes it. */
export const fileSource = (fd: number, size: number): ByteSource => ({
  size,
  async *read(start, end) {
    for (let at = start; at < end; ) {
      const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, end - at));
      const bytes = readSync(fd, piece, 0, piece.length, at);
      if (bytes === 0) throw new AegisError('backups.bad_archive', `It ends after ${at} bytes and should have ${end}.`);
      at += bytes;
      yield piece.subarray(0, bytes);
    }
  },
});
