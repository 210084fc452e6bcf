import { readFileSync } from 'node:fs';
import { generateIdentity, type Identity, parseIdentities } from '@aegis/archive/backup/age/keys';
import { AegisError } from '@aegis/protocol/errors';
import { reasonOf, writeNewFile } from '../new-file.ts';

/** Files with age identities, the secrets that open backups: made once, read when they are needed, never shown. */

const MAX_BYTES = 1024 * 1024;

/** As age-keygen writes them; returns the recipient. @throws AegisError cli.usage */
export const writeIdentity = (path: string, now: Date): string => {
  const { identity, recipient } = generateIdentity();
  const created = now.toISOString().replace(/\.\d+Z$/, 'Z');
  writeNewFile(path, `# created: ${created}\n# public key: ${recipient}\n${identity}\n`, {
    mode: 0o600,
    taken: () =>
      new AegisError('cli.usage', `${path} is there already, and a key is never written over: choose another name.`),
    elsewhere: 'choose another place with -o',
  });
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
