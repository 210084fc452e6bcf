import { promisify } from 'node:util';
import { constants, zstdDecompress } from 'node:zlib';

/** A run of zstd frames (RFC 8878), one behind the other, as archives and manifests are packed: each frame is found by its blocks' headers, without
 *  unpacking, and unpacked by itself. Node.js' own stream (24.21) leaves unread what follows the first frame. */

const MAGIC = 0xfd2fb528;
const WINDOW_LOG_MAX = 23; // what RFC 8878 asks every decoder for; ours have a window of their content
const unpacking = promisify(zstdDecompress);

export interface FrameLimits {
  /** Of one frame. Both are held in memory, twice at times. */
  packedBytes: number;
  contentBytes: number;
}

/** Makes the error for whatever is wrong; `reason` is one of zstd_magic, zstd_form, zstd_limit, zstd_corrupt, zstd_truncated. */
export type RefuseFrame = (reason: string, fault: string) => Error;

export interface Frame {
  packedBytes: number;
  contentBytes: number;
}

/** How long the frame is that begins at `from`; null when `bytes` ends before that can be told. Only the form is looked at.
 *  @throws what `refuse` makes */
export const measureFrame = (bytes: Buffer, from: number, limits: FrameLimits, refuse: RefuseFrame): Frame | null => {
  if (bytes.length < from + 5) return null;
  if (bytes.readUInt32LE(from) !== MAGIC) throw refuse('zstd_magic', 'it is not packed by zstd');
  const descriptor = bytes.readUInt8(from + 4);
  const singleSegment = (descriptor & 0x20) !== 0;
  const sizeFlag = descriptor >> 6;
  if ((descriptor & 0x1b) !== 0 || (sizeFlag === 0 && !singleSegment))
    throw refuse('zstd_form', 'a zstd frame has not the form that Aegis writes');
  const sizeFrom = from + (singleSegment ? 5 : 6);
  const sizeBytes = 2 ** sizeFlag;
  if (bytes.length < sizeFrom + sizeBytes) return null;
  const contentBytes =
    sizeFlag === 3
      ? Number(bytes.readBigUInt64LE(sizeFrom))
      : bytes.readUIntLE(sizeFrom, sizeBytes) + (sizeFlag === 1 ? 256 : 0);
  if (contentBytes > limits.contentBytes)
    throw refuse('zstd_limit', `a zstd frame holds ${contentBytes} bytes, at most ${limits.contentBytes} are taken`);
  let at = sizeFrom + sizeBytes;
  for (;;) {
    if (at - from > limits.packedBytes)
      throw refuse('zstd_limit', `a zstd frame is longer than ${limits.packedBytes} bytes`);
    if (bytes.length < at + 3) return null;
    const block = bytes.readUIntLE(at, 3);
    const type = (block >> 1) & 3;
    if (type === 3) throw refuse('zstd_form', 'a zstd block is of no known type');
    at += 3 + (type === 1 ? 1 : block >> 3);
    if (block & 1) break;
  }
  const end = at + ((descriptor & 4) !== 0 ? 4 : 0);
  if (end - from > limits.packedBytes)
    throw refuse('zstd_limit', `a zstd frame is longer than ${limits.packedBytes} bytes`);
  return bytes.length < end ? null : { packedBytes: end - from, contentBytes };
};

/** In libuv's thread pool. `packed` is one whole frame, as `measureFrame` found it.
 *  @throws what `refuse` makes */
export const unpackFrame = async (packed: Buffer, contentBytes: number, refuse: RefuseFrame): Promise<Buffer> => {
  const content = await unpacking(packed, {
    // One byte more than it may give: the whole content in one buffer, and a frame that gives more ends with an error.
    chunkSize: Math.max(contentBytes + 1, constants.Z_MIN_CHUNK),
    maxOutputLength: Math.max(contentBytes, 1),
    params: { [constants.ZSTD_d_windowLogMax]: WINDOW_LOG_MAX },
  }).catch(() => {
    throw refuse('zstd_corrupt', 'it does not unpack');
  });
  if (content.length !== contentBytes) throw refuse('zstd_corrupt', 'a zstd frame holds less than it says');
  return content;
};

/** What the frames hold, in order, each whole. The next one is unpacked while the caller works on the one before.
 *  @throws what `refuse` makes */
export async function* unpackFrames(
  packed: AsyncIterable<Buffer>,
  limits: FrameLimits,
  refuse: RefuseFrame,
): AsyncGenerator<Buffer, void, undefined> {
  let next: Promise<Buffer> | null = null;
  for await (const frame of splitFrames(packed, limits, refuse)) {
    const before: Promise<Buffer> | null = next;
    next = unpackFrame(frame.packed, frame.contentBytes, refuse);
    next.catch(() => undefined); // told when it is its turn; until then nobody waits for it
    if (before) yield await before;
  }
  if (next) yield await next;
}

async function* splitFrames(
  packed: AsyncIterable<Buffer>,
  limits: FrameLimits,
  refuse: RefuseFrame,
): AsyncGenerator<{ packed: Buffer; contentBytes: number }, void, undefined> {
  let held: Buffer[] = [];
  let heldBytes = 0;
  // Looked at again only once twice as much is there (or enough for any frame): else each small piece would be copied again and again.
  let lookAt = 0;
  for await (const piece of packed) {
    held.push(piece);
    heldBytes += piece.length;
    if (heldBytes < lookAt) continue;
    const bytes: Buffer = held.length === 1 && held[0] ? held[0] : Buffer.concat(held, heldBytes);
    let at = 0;
    for (let frame = measureFrame(bytes, at, limits, refuse); frame; frame = measureFrame(bytes, at, limits, refuse)) {
      yield { packed: bytes.subarray(at, at + frame.packedBytes), contentBytes: frame.contentBytes };
      at += frame.packedBytes;
    }
    held = at < bytes.length ? [bytes.subarray(at)] : [];
    heldBytes = bytes.length - at;
    lookAt = Math.min(2 * heldBytes, limits.packedBytes);
  }
  if (heldBytes === 0) return;
  const bytes = Buffer.concat(held, heldBytes);
  for (let at = 0; at < bytes.length; ) {
    const frame = measureFrame(bytes, at, limits, refuse);
    if (!frame) throw refuse('zstd_truncated', 'it ends too early');
    yield { packed: bytes.subarray(at, at + frame.packedBytes), contentBytes: frame.contentBytes };
    at += frame.packedBytes;
  }
}
