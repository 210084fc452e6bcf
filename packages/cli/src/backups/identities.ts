import { closeSync, constants, fchmodSync, fsyncSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { generateIdentity, type Identity, parseIdentities } from '@aegis/archive/backup/age/keys';
import { AegisError } from '@aegis/protocol/errors';

/** Files with age identities, the secrets that open backups: made once, read when they are needed, never shown. */

const MAX_BYTES = 1024 * 1024;
const reasonOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? 'unknown reason';

/** As age-keygen writes them; returns the recipient. @throws AegisError cli.usage */
export const writeIdentity = (path: string, now: Date): string => {
  const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
  let fd: number;
  try {
    fd = openSync(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  } catch (error) {
    throw new AegisError(
      'cli.usage',
      reasonOf(error) === 'EEXIST'
        ? `${path} is there already, and a key is never written over: choose another name.`
        : `${path} cannot be made (${reasonOf(error)}): choose another place with -o.`,
    );
  }
  const { identity, recipient } = generateIdentity();
  try {
    fchmodSync(fd, 0o600); // whatever the umask says
    const created = now.toISOString().replace(/\.\d+Z$/, 'Z');
    writeFileSync(fd, `# created: ${created}\n# public key: ${recipient}\n${identity}\n`);
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
  return recipient;
};

/** The text of an identity file; `-` is standard input. @throws AegisError backups.bad_identity */
export const readIdentityText = (path: string): string => {
  try {
    const bytes = readFileSync(path === '-' ? 0 : path);
    if (bytes.length <= MAX_BYTES) return bytes.toString('utf8');
  } catch (error) {
    throw new AegisError(
      'backups.bad_identity',
      `The identity file ${path} cannot be read (${reasonOf(error)}). Name the file that 'aegis backups key generate' or age-keygen made.`,
    );
  }
  throw new AegisError('backups.bad_identity', `${path} is far too large for an identity file. Name another.`);
};

/** All of them; each file is checked. @throws AegisError backups.bad_identity */
export const identitiesIn = (paths: readonly string[]): Identity[] =>
  paths.flatMap((path) => {
    const text = readIdentityText(path);
    try {
      return parseIdentities(text);
    } catch (error) {
      if (!(error instanceof AegisError)) throw error;
      throw new AegisError(error.code, `${path}: ${error.message}`, { details: error.details });
    }
  });
