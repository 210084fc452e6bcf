import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';
import { AegisError } from '@aegis/protocol/errors';
import { lengthPrefixed } from '@aegis/protocol/nodes/enrolment';
import type { MessageRow } from './repository.ts';

/** Messages and their outcomes at rest: ChaCha20-Poly1305 under a key that is made of a secret in the data directory, with the clear columns
 *  as associated data: nothing can be put into another row, and a copy of the database alone gives nothing away. */

const ALGORITHM = 'chacha20-poly1305';
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

export type Sealable = Pick<MessageRow, 'id' | 'agent_id' | 'channel' | 'message_type' | 'created_at' | 'expires_at'>;
export type Kind = 'message' | 'outcome';
export interface Sealed {
  text: string;
  nonce: string;
}
export interface MessageVault {
  seal(kind: Kind, row: Sealable, value: unknown): Sealed;
  /** @throws AegisError messages.unreadable */
  open(kind: Kind, row: Sealable, sealed: Sealed): unknown;
}

/** @param secret 32 bytes, base64url: what other secrets of the fleet are made of */
export const messageVault = (secret: string): MessageVault => {
  const key = Buffer.from(hkdfSync('sha256', Buffer.from(secret, 'base64url'), '', 'aegis message-queue 1', 32));
  const associated = (kind: Kind, row: Sealable): Buffer =>
    lengthPrefixed([
      `aegis message-queue 1 ${kind}`,
      row.id,
      row.agent_id,
      row.channel,
      row.message_type,
      String(row.created_at),
      String(row.expires_at),
    ]);
  return {
    seal: (kind, row, value) => {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv(ALGORITHM, key, nonce, { authTagLength: TAG_BYTES });
      cipher.setAAD(associated(kind, row), { plaintextLength: 0 });
      const sealed = Buffer.concat([cipher.update(JSON.stringify(value), 'utf8'), cipher.final(), cipher.getAuthTag()]);
      return { text: sealed.toString('base64'), nonce: nonce.toString('base64') };
    },
    open: (kind, row, { text, nonce }) => {
      const bytes = Buffer.from(text, 'base64');
      try {
        const decipher = createDecipheriv(ALGORITHM, key, Buffer.from(nonce, 'base64'), { authTagLength: TAG_BYTES });
        decipher.setAAD(associated(kind, row), { plaintextLength: 0 });
        decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
        return JSON.parse(
          Buffer.concat([decipher.update(bytes.subarray(0, -TAG_BYTES)), decipher.final()]).toString('utf8'),
        );
      } catch {
        // without the cause: it could quote what was decrypted
        throw new AegisError(
          'messages.unreadable',
          "The stored message cannot be decrypted: it was changed in the database, or the data directory's secrets are others than when it was sent. Send it again.",
        );
      }
    },
  };
};
