import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { errnoOf } from './process.ts';

/** Files that only the daemon's user may read: made with O_EXCL, never through a symbolic link, durable by fsync and rename. */

const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_DIRECTORY, O_NONBLOCK } = constants;
const MAX_BYTES = 16 * 1024 * 1024;

const loose = (path: string, mode: number, wanted: string): AegisError =>
  new AegisError(
    'config.invalid',
    `${path} has mode ${(mode & 0o777).toString(8).padStart(4, '0')}: others could read or change it. Run 'chmod ${wanted} ${path}' and find out who may have.`,
  );

/** Makes the folder with mode 0700, or checks that an existing one is ours alone.
 *  @throws AegisError config.invalid */
export const ensurePrivateFolder = (path: string): void => {
  try {
    mkdirSync(path, { mode: 0o700, recursive: true });
  } catch (error) {
    throw new AegisError(
      'config.invalid',
      `data_dir: ${path} cannot be made (${errnoOf(error)}): choose another with --data-dir.`,
      { cause: error },
    );
  }
  const stat = lstatSync(path);
  if (!stat.isDirectory())
    throw new AegisError('config.invalid', `data_dir: ${path} is not a folder: choose another with --data-dir.`);
  if ((stat.mode & 0o077) !== 0) throw loose(path, stat.mode, '0700');
  const uid = process.geteuid?.();
  if (uid !== undefined && stat.uid !== uid)
    throw new AegisError(
      'config.invalid',
      `data_dir: ${path} belongs to uid ${stat.uid}, the daemon runs as ${uid}: run it as the owner.`,
    );
};

/** The text of a private file, or null when there is none. @throws AegisError config.invalid when others could reach it */
export const readPrivateFile = (path: string): string | null => {
  let fd: number;
  try {
    fd = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    if (errnoOf(error) === 'ELOOP')
      throw new AegisError(
        'config.invalid',
        `${path} is a symbolic link, which the daemon does not follow: put the file itself there.`,
      );
    throw error;
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile() || stat.size > MAX_BYTES)
      throw new AegisError('config.invalid', `${path} is not a file that the daemon wrote: remove it.`);
    if ((stat.mode & 0o077) !== 0) throw loose(path, stat.mode, '0600');
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
};

/** Replaces the file, or with `exclusive` makes it only when it is not there (false: it was). Durable when it returns. */
export const writePrivateFile = (path: string, text: string, { exclusive = false } = {}): boolean => {
  const temporary = `${path}.tmp`;
  rmSync(temporary, { force: true });
  const fd = openSync(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  try {
    fchmodSync(fd, 0o600);
    writeFileSync(fd, text);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  let made = true;
  if (exclusive) {
    try {
      linkSync(temporary, path);
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
      made = false;
    } finally {
      rmSync(temporary, { force: true });
    }
  } else renameSync(temporary, path);
  syncFolder(dirname(path));
  return made;
};

export const removePrivateFile = (path: string): void => {
  rmSync(path, { force: true });
  syncFolder(dirname(path));
};

const syncFolder = (path: string): void => {
  const fd = openSync(join(path, '.'), O_RDONLY | O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
};
