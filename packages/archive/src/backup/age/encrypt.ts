import { randomBytes } from 'node:crypto';
import { FILE_KEY_BYTES, hkdf, writeHeader } from './header.ts';
import { parseRecipient } from './keys.ts';
import { NONCE_BYTES, SEGMENT_BYTES, sealedLength, sealer } from './segments.ts';
import { wrapFileKey } from './x25519.ts';

/** One stream, encrypted as it passes. Synchronous: a segment takes less time than a way to another thread. */

export interface AgeEncrypter {
  /** The file's first bytes, the payload's nonce included. */
  header: Buffer;
  /** The sealed segments that `bytes` completes. What was given may be changed afterwards. */
  push(bytes: Buffer): Buffer[];
  /** What is left. No other call may follow. */
  end(): Buffer[];
}

/** For `age -d` with the identity of any of the recipients. Each call makes a file key of its own: an archive that is begun again needs another
 *  encrypter, for the same key over other bytes would give both away.
 *  @throws AegisError backups.bad_recipient */
export const ageEncrypter = (recipients: readonly string[]): AgeEncrypter => {
  if (recipients.length === 0) throw new RangeError('at least one recipient is needed');
  const fileKey = randomBytes(FILE_KEY_BYTES);
  const stanzas = recipients.map((text) => wrapFileKey(fileKey, parseRecipient(text)));
  const nonce = randomBytes(NONCE_BYTES);
  const { seal } = sealer(hkdf(fileKey, nonce, 'payload'));
  const header = Buffer.concat([writeHeader(stanzas, fileKey), nonce]);
  fileKey.fill(0);
  const held = Buffer.allocUnsafe(SEGMENT_BYTES);
  let heldBytes = 0;
  let index = 0;
  let ended = false;
  const refuseAfterEnd = () => {
    if (ended) throw new Error('the encrypted stream has ended');
  };
  return {
    header,
    push: (bytes) => {
      refuseAfterEnd();
      // A segment goes out once a byte follows it: only then it is known not to be the last.
      const segments = Math.max(0, Math.ceil((heldBytes + bytes.length) / SEGMENT_BYTES) - 1);
      if (segments === 0) {
        heldBytes += bytes.copy(held, heldBytes);
        return [];
      }
      const out = Buffer.allocUnsafe(sealedLength(segments * SEGMENT_BYTES));
      let from = 0;
      let at = 0;
      for (let done = 0; done < segments; done++) {
        let segment: Buffer;
        if (heldBytes > 0) {
          from += bytes.copy(held, heldBytes, 0, SEGMENT_BYTES - heldBytes);
          heldBytes = 0;
          segment = held;
        } else {
          segment = bytes.subarray(from, from + SEGMENT_BYTES);
          from += SEGMENT_BYTES;
        }
        at = seal(segment, index++, false, out, at);
      }
      heldBytes = bytes.copy(held, 0, from);
      return [out];
    },
    end: () => {
      refuseAfterEnd();
      ended = true;
      const out = Buffer.allocUnsafe(sealedLength(heldBytes));
      seal(held.subarray(0, heldBytes), index, true, out, 0);
      return [out];
    },
  };
};
