import { randomBytes } from 'node:crypto';
import { hkdf, type Stanza, writeHeader } from '../src/backup/age/header.ts';
import { parseRecipient } from '../src/backup/age/keys.ts';
import { NONCE_BYTES, SEGMENT_BYTES, sealedLength, sealer } from '../src/backup/age/segments.ts';
import { wrapFileKey } from '../src/backup/age/x25519.ts';

/** Age files piece by piece, so that each piece can be made wrongly. */

export interface Forged {
  stanzas: Stanza[];
  fileKey: Buffer;
  /** Content of each segment, its number and whether it is sealed as the last. */
  segments: { plain: Buffer; index: number; last: boolean }[];
}

export const forgery = (recipient: string, plain: Buffer): Forged => {
  const fileKey = randomBytes(16);
  const count = Math.max(1, Math.ceil(plain.length / SEGMENT_BYTES));
  return {
    fileKey,
    stanzas: [wrapFileKey(fileKey, parseRecipient(recipient))],
    segments: Array.from({ length: count }, (_, index) => ({
      plain: plain.subarray(index * SEGMENT_BYTES, (index + 1) * SEGMENT_BYTES),
      index,
      last: index === count - 1,
    })),
  };
};

export const headerText = ({ stanzas, fileKey }: Forged): string => writeHeader(stanzas, fileKey).toString('latin1');

export const assembled = (forged: Forged, header = headerText(forged)): Buffer => {
  const nonce = randomBytes(NONCE_BYTES);
  const { seal } = sealer(hkdf(forged.fileKey, nonce, 'payload'));
  const sealed = forged.segments.map(({ plain, index, last }) => {
    const out = Buffer.alloc(plain.length + sealedLength(0));
    seal(plain, index, last, out, 0);
    return out;
  });
  return Buffer.concat([Buffer.from(header, 'latin1'), nonce, ...sealed]);
};
