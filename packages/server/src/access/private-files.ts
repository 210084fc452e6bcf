import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';

/** Files that hold secrets: 0600, owned by us, never through a symbolic link, made whole or not at all. */

const MAX_BYTES = 64 * 1024;

const refuse = (path: string, why: string, cause?: unknown): AegisError =>
  new AegisError('config.invalid', `${path} ${why}`, { cause });

/** Makes the directory (0700) or accepts one that nobody else can write to.
 *  @throws AegisError config.invalid */
export const privateDirectory = (path: string): void => {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  const stat = lstatSync(path);
  if (!stat.isDirectory()) throw refuse(path, 'is not a directory (a symbolic link is not followed here).');
  if ((stat.mode & 0o022) !== 0)
    throw refuse(path, `may be written by others (mode ${octal(stat.mode)}). Run 'chmod 700' on it.`);
};

/** The file's text, or null when there is none.
 *  @throws AegisError config.invalid when others may read it, it is a link, or not ours */
export const readPrivateFile = (path: string, maxBytes = MAX_BYTES): string | null => {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return null;
    throw refuse(path, 'cannot be opened: it must be a plain file of the user that runs the server.', error);
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile() || stat.size > maxBytes) throw refuse(path, 'is not a plain file of the expected size.');
    if ((stat.mode & 0o077) !== 0)
      throw refuse(path, `holds a secret and may be read by others (mode ${octal(stat.mode)}). Run 'chmod 600' on it.`);
    const us = process.geteuid?.() ?? stat.uid;
    if (stat.uid !== us && stat.uid !== 0)
      throw refuse(path, `belongs to user ${stat.uid}, not to the one that runs the server.`);
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
};

/** Makes the file, durable before it has its name. False when it exists already; it is then left as it is. */
export const createPrivateFile = (path: string, text: string): boolean => {
  const folder = dirname(path);
  const draft = join(folder, `.${randomBytes(8).toString('hex')}.new`);
  const fd = openSync(draft, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600);
  try {
    writeFileSync(fd, text); // unlike writeSync it never writes a part and says nothing, as on a disk that fills up
    fsyncSync(fd);
  } catch (error) {
    unlinkSync(draft);
    throw error;
  } finally {
    closeSync(fd);
  }
  try {
    linkSync(draft, path); // unlike a rename it fails when the name is taken
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error;
    return false;
  } finally {
    unlinkSync(draft);
  }
  syncDirectory(folder);
  return true;
};

const syncDirectory = (path: string): void => {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
};

const octal = (mode: number): string => (mode & 0o777).toString(8).padStart(4, '0');
const hasCode = (error: unknown, code: string): boolean =>
  error instanceof Error && 'code' in error && error.code === code;
