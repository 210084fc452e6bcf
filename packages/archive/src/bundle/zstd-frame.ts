import { promisify } from 'node:util';
import { constants, zstdCompress, zstdDecompress } from 'node:zlib';
import type { BundleLimits } from '@aegis/protocol/artifacts/manifest';
import { badBundle, overLimit } from './refusal.ts';

/** The compression around a bundle's tar: exactly one zstd frame (RFC 8878) with content size and checksum, without dictionary.
 *  `inspectFrame` walks the frame's blocks by their headers, taking no memory, before anything is decompressed: Node.js' decoder (24.21)
 *  leaves what follows a frame unread, where `zstd` reads on, and would decompress what two programs see differently. */

const MAGIC = 0xfd2fb528;
const SKIPPABLE = 0x184d2a50;
const LEVEL = 19;
/** 8 MiB: what RFC 8878 asks every decoder to support, and all that level 19 takes. */
const WINDOW_LOG = 23;
const MAX_BLOCK_BYTES = 128 * 1024;
const CHECKSUM_BYTES = 4;
const MIB = 1024 * 1024;

const compressing = promisify(zstdCompress);
const decompressing = promisify(zstdDecompress);

/** The same bytes for the same input, as long as zstd itself is the same version (docs/decisions/0008). */
export const compressFrame = (tar: Buffer): Promise<Buffer> =>
  compressing(tar, {
    pledgedSrcSize: tar.length,
    params: {
      [constants.ZSTD_c_compressionLevel]: LEVEL,
      [constants.ZSTD_c_windowLog]: WINDOW_LOG,
      [constants.ZSTD_c_contentSizeFlag]: 1,
      [constants.ZSTD_c_checksumFlag]: 1,
      [constants.ZSTD_c_dictIDFlag]: 0,
      [constants.ZSTD_c_nbWorkers]: 0,
    },
  });

type FrameLimits = Pick<BundleLimits, 'packedBytes' | 'unpackedBytes' | 'ratio'>;

/** Takes what the frame declares, which is within the limits, and 64 KiB; in one piece.
 *  @throws AegisError artifacts.bad_bundle, artifacts.bundle_limit */
export const decompressFrame = async (packed: Buffer, limits: FrameLimits): Promise<Buffer> => {
  const { contentBytes } = inspectFrame(packed, limits);
  const content = await decompressing(packed, {
    // One byte more than it may give: the whole content in one buffer, and a frame that gives more ends with an error.
    chunkSize: Math.max(contentBytes + 1, constants.Z_MIN_CHUNK),
    maxOutputLength: Math.max(contentBytes, 1),
    params: { [constants.ZSTD_d_windowLogMax]: WINDOW_LOG },
  }).catch((cause: unknown) => {
    throw badBundle('zstd_corrupt', 'The bundle does not decompress: it is damaged. Fetch or pack it again.', {
      zstd: cause instanceof Error && 'code' in cause ? String(cause.code) : 'unknown',
    });
  });
  if (content.length !== contentBytes)
    throw badBundle('content_size', `The bundle declares ${contentBytes} bytes and holds ${content.length}.`);
  return content;
};

/** What the frame declares, when its form is a bundle's.
 *  @throws AegisError artifacts.bad_bundle, artifacts.bundle_limit */
export const inspectFrame = (packed: Buffer, limits: FrameLimits): { contentBytes: number } => {
  if (packed.length > limits.packedBytes)
    throw overLimit('packed_size', `The bundle has ${packed.length} bytes: at most ${limits.packedBytes}.`);
  const { contentBytes, windowBytes, headerBytes } = frameHeader(packed);
  refuseBomb(contentBytes, packed.length, limits);
  if (windowBytes > 2 ** WINDOW_LOG)
    throw overLimit(
      'window_size',
      `The bundle needs a zstd window of ${windowBytes} bytes: at most ${2 ** WINDOW_LOG}.`,
    );
  const { end, least, most } = walkBlocks(packed, headerBytes, Math.min(windowBytes, MAX_BLOCK_BYTES));
  if (most < contentBytes || least > contentBytes)
    throw badBundle(
      'content_size',
      `The bundle declares ${contentBytes} bytes, and its blocks hold ${least > contentBytes ? `at least ${least}` : `at most ${most}`}.`,
    );
  refuseTrailing(packed, end + CHECKSUM_BYTES);
  return { contentBytes };
};

const frameHeader = (packed: Buffer): { contentBytes: number; windowBytes: number; headerBytes: number } => {
  if (packed.length < 5) throw truncated();
  refuseMagic(packed.readUInt32LE(0));
  const descriptor = packed.readUInt8(4);
  const singleSegment = (descriptor & 0x20) !== 0;
  if ((descriptor & 0x18) !== 0) throw badBundle('zstd_reserved', "A reserved bit of the bundle's zstd header is set.");
  if ((descriptor & 0x03) !== 0) throw badBundle('zstd_dictionary', 'The bundle asks for a zstd dictionary.');
  if ((descriptor & 0x04) === 0)
    throw badBundle('zstd_checksum_flag', 'The bundle has no zstd checksum: pack it with one (zstd --check).');
  const sizeFlag = descriptor >> 6;
  if (sizeFlag === 0 && !singleSegment)
    throw badBundle(
      'zstd_no_size',
      'The bundle does not declare its unpacked size: compress it from a file, not from a pipe.',
    );
  const sizeFrom = singleSegment ? 5 : 6;
  const headerBytes = sizeFrom + 2 ** sizeFlag;
  if (packed.length < headerBytes) throw truncated();
  const contentBytes =
    sizeFlag === 3
      ? Number(packed.readBigUInt64LE(sizeFrom))
      : packed.readUIntLE(sizeFrom, 2 ** sizeFlag) + (sizeFlag === 1 ? 256 : 0);
  const windowBytes = singleSegment ? contentBytes : windowOf(packed.readUInt8(5));
  return { contentBytes, windowBytes, headerBytes };
};

/** RFC 8878, 3.1.1.1.2. */
const windowOf = (descriptor: number): number => {
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
};

const refuseMagic = (magic: number): void => {
  if (magic === MAGIC) return;
  if ((magic & 0xfffffff0) >>> 0 === SKIPPABLE)
    throw badBundle(
      'zstd_skippable',
      'The bundle begins with a skippable zstd frame: a bundle is one frame and nothing else.',
    );
  throw badBundle('not_zstd', 'This is no bundle: it does not begin as zstd does.');
};

const refuseBomb = (contentBytes: number, packedBytes: number, limits: FrameLimits): void => {
  if (contentBytes > limits.unpackedBytes)
    throw overLimit('unpacked_size', `The bundle unpacks to ${contentBytes} bytes: at most ${limits.unpackedBytes}.`);
  if (contentBytes - MIB > limits.ratio * packedBytes)
    throw overLimit(
      'ratio',
      `The bundle unpacks from ${packedBytes} to ${contentBytes} bytes: beyond the first MiB at most ${limits.ratio} times its size.`,
    );
};

/** Where the last block ends, and what all of them hold: known for raw and repeated bytes, at most a block for a compressed one. */
const walkBlocks = (packed: Buffer, from: number, blockBytes: number): { end: number; least: number; most: number } => {
  let at = from;
  let least = 0;
  let most = 0;
  for (;;) {
    if (at + 3 > packed.length) throw truncated();
    const header = packed.readUIntLE(at, 3);
    const type = (header >> 1) & 3;
    const size = header >> 3;
    if (type === 3) throw badBundle('zstd_block', "A block of the bundle's zstd frame is of the reserved type.");
    if (size > blockBytes)
      throw badBundle(
        'zstd_block',
        `A block of the bundle's zstd frame has ${size} bytes: at most ${blockBytes} here.`,
      );
    least += type === 2 ? 0 : size;
    most += type === 2 ? blockBytes : size;
    at += 3 + (type === 1 ? 1 : size);
    if (header & 1) return { end: at, least, most };
  }
};

const refuseTrailing = (packed: Buffer, end: number): void => {
  if (end > packed.length) throw truncated();
  if (end === packed.length) return;
  const magic = end + 4 <= packed.length ? packed.readUInt32LE(end) : 0;
  if (magic === MAGIC || (magic & 0xfffffff0) >>> 0 === SKIPPABLE)
    throw badBundle('zstd_frames', 'The bundle has more than one zstd frame.');
  throw badBundle(
    'zstd_trailing',
    `Behind the bundle's zstd frame stands something else (${packed.length - end} B): fetch it again.`,
  );
};

const truncated = () => badBundle('truncated', 'The bundle ends too early: fetch it again.');
