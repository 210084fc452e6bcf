import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { Credentials } from '@aegis/protocol/backups/config';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';

/** Credentials of destinations at rest: AES-256-GCM under a key in the data directory, with the configuration's id as associated data,
 *  so that no row's credentials can be put into another configuration. A copy of the database alone gives none away. */

const VERSION = 1;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const KEY = /^[A-Za-z0-9_-]{43}$/;

export interface CredentialVault {
  encrypt(configId: string, credentials: Credentials): string;
  /** @throws AegisError backups.bad_destination */
  decrypt(configId: string, text: string): Credentials;
}

/** Reads the key, or makes it at the first need: a server without credentials has none. */
export interface KeyFile {
  read(path: string): string | null;
  /** False when it is there already. */
  create(path: string, text: string): boolean;
}

export const credentialVault = (dataDir: string, file: KeyFile): CredentialVault => {
  const path = join(dataDir, 'keys', 'backups-credentials.key');
  let known: Buffer | undefined;
  const keyIn = (text: string | null): Buffer => {
    if (text === null || !KEY.test(text.trim()))
      throw new AegisError(
        'backups.bad_destination',
        `The stored credentials of backup destinations cannot be read: ${path} is missing or damaged. Restore it from a backup of the data directory, or give the configuration its credentials anew.`,
      );
    return Buffer.from(text.trim(), 'base64url');
  };
  const keyForReading = (): Buffer => {
    known ??= keyIn(file.read(path));
    return known;
  };
  const keyForWriting = (): Buffer => {
    if (!known && file.read(path) === null) file.create(path, `${randomBytes(32).toString('base64url')}\n`);
    return keyForReading(); // another process may have been first
  };
  return {
    encrypt: (configId, credentials) => {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv('aes-256-gcm', keyForWriting(), nonce, { authTagLength: TAG_BYTES });
      cipher.setAAD(Buffer.from(configId));
      const sealed = Buffer.concat([cipher.update(JSON.stringify(credentials), 'utf8'), cipher.final()]);
      return Buffer.concat([Buffer.of(VERSION), nonce, sealed, cipher.getAuthTag()]).toString('base64');
    },
    decrypt: (configId, text) => {
      const key = keyForReading();
      const bytes = Buffer.from(text, 'base64');
      try {
        if (bytes[0] !== VERSION) throw new RangeError('another version');
        const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(1, 1 + NONCE_BYTES), {
          authTagLength: TAG_BYTES,
        });
        decipher.setAAD(Buffer.from(configId));
        decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
        const plain = Buffer.concat([decipher.update(bytes.subarray(1 + NONCE_BYTES, -TAG_BYTES)), decipher.final()]);
        return z.parse(Credentials, JSON.parse(plain.toString('utf8')));
      } catch {
        // without the cause: it could quote what was decrypted
        throw new AegisError(
          'backups.bad_destination',
          `The stored credentials of this destination were not encrypted with ${path}, or are damaged. Restore that file from a backup of the data directory, or give the configuration its credentials anew.`,
        );
      }
    },
  };
};
