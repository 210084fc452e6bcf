import { randomBytes } from 'node:crypto';
import { closeSync, constants, fchmodSync, fsyncSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';

/** A file that must not be there yet: made with its mode, through no link, on disk when this returns. Half of one never stays. */

const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;

/** @param elsewhere what to do when there is no making it there, as in "choose another folder with --out"
 *  @throws AegisError cli.usage; what `taken` makes when something is there */
export const writeNewFile = (
  path: string,
  text: string,
  { mode, taken, elsewhere }: { mode: number; taken: (path: string) => Error; elsewhere: string },
): void => {
  let fd: number;
  try {
    fd = openSync(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
  } catch (error) {
    if (reasonOf(error) === 'EEXIST') throw taken(path);
    throw new AegisError('cli.usage', `${path} cannot be made (${reasonOf(error)}): ${elsewhere}.`);
  }
  try {
    fchmodSync(fd, mode); // whatever the umask says
    writeFileSync(fd, text);
    fsyncSync(fd);
  } catch (error) {
    rmSync(path, { force: true });
    throw new AegisError(
      'cli.usage',
      `${path} cannot be written (${reasonOf(error)}): see to the disk, and try again.`,
    );
  } finally {
    closeSync(fd);
  }
};

/** In the place of what is there: written beside it and renamed, so that nobody ever reads half of it, and a crash leaves one or the other.
 *  @throws the system's own error, with nothing left behind */
export const replaceFile = (path: string, text: string, mode: number): void => {
  const beside = join(dirname(path), `.${randomBytes(8).toString('hex')}.new`);
  try {
    writeFileSync(beside, text, { mode, flag: 'wx', flush: true });
    renameSync(beside, path);
  } catch (error) {
    rmSync(beside, { force: true });
    throw error;
  }
};

/** Of a refusal of the system. */
export const reasonOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? 'unknown reason';
