import { createCipheriv, createDecipheriv, createSecretKey } from 'node:crypto';
import { release } from '../bytes.ts';
import { damaged } from './header.ts';

/** The payload of an age file (c2sp.org/age, "Payload"): segments of 64 KiB, each sealed by itself; the nonce is a segment's number and whether it
 *  is the last. */

export const NONCE_BYTES = 16;
export const SEGMENT_BYTES = 64 * 1024;
const TAG_BYTES = 16;
export const SEALED_BYTES = SEGMENT_BYTES + TAG_BYTES;
const CIPHER = 'chacha20-poly1305';

/** Of a plaintext as long as this one, sealed; without header and nonce. */
export const sealedLength = (plainBytes: number): number =>
  plainBytes + TAG_BYTES * Math.max(1, Math.ceil(plainBytes / SEGMENT_BYTES));

/** How long the plaintext is, if the payload is whole.
 *  @throws AegisError backups.bad_archive for a length that no payload has */
export const plainLength = (sealedBytes: number): number => {
  const segments = Math.ceil(sealedBytes / SEALED_BYTES);
  const plain = sealedBytes - segments * TAG_BYTES;
  if (segments === 0 || plain < 0 || (plain <= (segments - 1) * SEGMENT_BYTES && segments > 1)) throw truncated();
  return plain;
};

const nonceOf = (nonce: Buffer, index: number, last: boolean): Buffer => {
  nonce.writeUIntBE(index, 5, 6); // eleven bytes; the upper five stay zero: 2^48 segments are 16 EiB
  nonce[11] = last ? 1 : 0;
  return nonce;
};

export interface Sealer {
  /** Writes the sealed segment to `to` at `at`; returns where it ends. Never the same index twice. */
  seal(segment: Buffer, index: number, last: boolean, to: Buffer, at: number): number;
}
export const sealer = (rawKey: Buffer): Sealer => {
  const key = createSecretKey(rawKey); // a third faster than raw bytes, which are taken over anew for each segment
  const nonce = Buffer.alloc(12);
  return {
    seal: (segment, index, last, to, at) => {
      const cipher = createCipheriv(CIPHER, key, nonceOf(nonce, index, last), { authTagLength: TAG_BYTES });
      const sealed = cipher.update(segment);
      cipher.final();
      const end = at + sealed.copy(to, at);
      if (sealed.length === SEGMENT_BYTES) release(sealed, SEGMENT_BYTES);
      return end + cipher.getAuthTag().copy(to, end);
    },
  };
};

export interface Opener {
  /** @throws AegisError backups.bad_archive */
  open(sealed: Buffer, index: number, last: boolean): Buffer;
}
export const opener = (rawKey: Buffer): Opener => {
  const key = createSecretKey(rawKey);
  const nonce = Buffer.alloc(12);
  return {
    open: (sealed, index, last) => {
      const plain = sealed.length - TAG_BYTES;
      if (plain < 0 || (plain === 0 && index > 0)) throw truncated();
      const decipher = createDecipheriv(CIPHER, key, nonceOf(nonce, index, last), { authTagLength: TAG_BYTES });
      decipher.setAuthTag(sealed.subarray(plain));
      const segment = decipher.update(sealed.subarray(0, plain));
      try {
        decipher.final();
      } catch {
        throw damaged(
          'age_segment',
          `The encrypted file was altered or cut off: its segment ${index + 1} does not open.`,
        );
      }
      return segment;
    },
  };
};

export const truncated = () => damaged('age_truncated', 'The encrypted file ends too early: fetch it again.');
