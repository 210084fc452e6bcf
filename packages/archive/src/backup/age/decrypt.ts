import type { ByteSource } from '../bytes.ts';
import { hkdf, MAX_HEADER_BYTES, parseHeader } from './header.ts';
import type { Identity } from './keys.ts';
import { NONCE_BYTES, type Opener, opener, plainLength, SEALED_BYTES, SEGMENT_BYTES, truncated } from './segments.ts';
import { openHeader } from './x25519.ts';

/** What `encrypt.ts` or `age` made, in plain: as a stream, or any part of it. */

export interface AgeDecrypter {
  /** @throws AegisError backups.wrong_identity, backups.bad_archive */
  push(bytes: Buffer): Buffer[];
  /** What is left, once it is sure that nothing is missing.
   *  @throws AegisError backups.wrong_identity, backups.bad_archive */
  end(): Buffer[];
}

export const ageDecrypter = (identities: readonly Identity[]): AgeDecrypter => {
  let held: Buffer[] = [];
  let heldBytes = 0;
  let payload: Opener | null = null;
  let index = 0;
  const gather = (): Buffer => {
    const all = held.length === 1 && held[0] ? held[0] : Buffer.concat(held, heldBytes);
    held = [];
    heldBytes = 0;
    return all;
  };
  const hold = (bytes: Buffer): void => {
    if (bytes.length === 0) return;
    held.push(bytes);
    heldBytes += bytes.length;
  };
  const begin = (): void => {
    const start = gather();
    const opened = openPayload(start, identities);
    payload = opened?.opener ?? null;
    hold(opened ? start.subarray(opened.from) : start);
  };
  return {
    push: (bytes) => {
      hold(bytes);
      if (!payload) begin();
      if (!payload || heldBytes <= SEALED_BYTES) return [];
      const all = gather();
      const out: Buffer[] = [];
      let at = 0;
      // One more byte must follow: the last segment is opened as such.
      for (; all.length - at > SEALED_BYTES; at += SEALED_BYTES)
        out.push(payload.open(all.subarray(at, at + SEALED_BYTES), index++, false));
      hold(Buffer.from(all.subarray(at)));
      return out;
    },
    end: () => {
      if (!payload) throw truncated();
      return [payload.open(gather(), index, true)];
    },
  };
};

const openPayload = (start: Buffer, identities: readonly Identity[]): { opener: Opener; from: number } | null => {
  const header = parseHeader(start);
  if (!header || start.length < header.bytes + NONCE_BYTES) return null;
  const from = header.bytes + NONCE_BYTES;
  return { opener: opener(hkdf(openHeader(header, identities), start.subarray(header.bytes, from), 'payload')), from };
};

/** @throws AegisError backups.wrong_identity, backups.bad_archive */
export async function* decryptStream(
  sealed: AsyncIterable<Buffer>,
  identities: readonly Identity[],
): AsyncGenerator<Buffer, void, undefined> {
  const decrypter = ageDecrypter(identities);
  for await (const bytes of sealed) yield* decrypter.push(bytes);
  yield* decrypter.end();
}

/** The plaintext of an encrypted source as a source: a part of it takes the segments that hold it, no more. Reads the header and the last segment at
 *  once, so that the size is a proven one.
 *  @throws AegisError backups.wrong_identity, backups.bad_archive; so does its `read` */
export const decryptedSource = async (sealed: ByteSource, identities: readonly Identity[]): Promise<ByteSource> => {
  const start = await collect(sealed.read(0, Math.min(sealed.size, MAX_HEADER_BYTES + NONCE_BYTES)));
  const opened = openPayload(start, identities);
  if (!opened) throw truncated();
  const { from } = opened;
  const size = plainLength(sealed.size - from);
  const lastIndex = Math.max(0, Math.ceil(size / SEGMENT_BYTES) - 1);
  opened.opener.open(await collect(sealed.read(from + lastIndex * SEALED_BYTES, sealed.size)), lastIndex, true);
  return {
    size,
    read: (begin, end) => {
      if (!(0 <= begin && begin <= end && end <= size)) throw new RangeError(`no bytes ${begin}–${end} in ${size}`);
      return readPart(sealed, opened, { begin, end, lastIndex });
    },
  };
};

async function* readPart(
  sealed: ByteSource,
  { opener: { open }, from }: { opener: Opener; from: number },
  { begin, end, lastIndex }: { begin: number; end: number; lastIndex: number },
): AsyncGenerator<Buffer, void, undefined> {
  if (begin === end) return;
  let index = Math.floor(begin / SEGMENT_BYTES);
  const last = Math.floor((end - 1) / SEGMENT_BYTES);
  const until = Math.min(sealed.size, from + (last + 1) * SEALED_BYTES);
  const openNext = (segment: Buffer): Buffer => {
    const plain = open(segment, index, index === lastIndex);
    const offset = index++ * SEGMENT_BYTES;
    return plain.subarray(Math.max(0, begin - offset), Math.min(plain.length, end - offset));
  };
  let held: Buffer = Buffer.alloc(0);
  for await (const bytes of sealed.read(from + index * SEALED_BYTES, until)) {
    const all = held.length === 0 ? bytes : Buffer.concat([held, bytes]);
    let at = 0;
    for (; index <= last && index < lastIndex && all.length - at >= SEALED_BYTES; at += SEALED_BYTES)
      yield openNext(all.subarray(at, at + SEALED_BYTES));
    held = Buffer.from(all.subarray(at));
  }
  if (index > last) return;
  yield openNext(held);
  if (index <= last) throw truncated();
}

const collect = async (pieces: AsyncIterable<Buffer>): Promise<Buffer> => {
  const all: Buffer[] = [];
  for await (const piece of pieces) all.push(piece);
  return Buffer.concat(all);
};
