import { constants, gzipSync } from 'node:zlib';
import { bundleOf, entriesOf, frameBlock, frameHeader, NO_CHECKSUM, squeeze, tarOf } from './bundle-forge.ts';
import type { HostileCase } from './hostile-case.ts';

/** Bundles whose compression is not a bundle's. */

const MIB = 1024 * 1024;
const BLOCK = 128 * 1024;
const good = () => bundleOf(entriesOf());
const flipped = (at: number, bits: number): Buffer => {
  const bytes = good();
  bytes[at] = (bytes[at] ?? 0) ^ bits;
  return bytes;
};
const skippable = (content: string): Buffer =>
  Buffer.concat([Buffer.from([0x50, 0x2a, 0x4d, 0x18, content.length, 0, 0, 0]), Buffer.from(content)]);
/** One block that gives 128 KiB of zeros, compressed: the second one of a larger frame, so that it stands on its own before others. */
const zerosBlock = (): Buffer => {
  const frame = squeeze(Buffer.alloc(4 * BLOCK), { [constants.ZSTD_c_windowLog]: 17 });
  const from = frame.length - 4 - 3;
  for (let at = 10; at < from; ) {
    const header = frame.readUIntLE(at, 3);
    if (((header >> 1) & 3) === 2) return frame.subarray(at + 3, at + 3 + (header >> 3));
    at += 3 + ((header >> 1) & 3) === 1 ? 1 : header >> 3;
  }
  throw new Error('zstd made no compressed block of zeros');
};
const bomb = (contentBytes: bigint, blocks: number, block: Buffer, type: number, size: number): Buffer =>
  Buffer.concat([
    frameHeader({ contentBytes, window: 0x38 }),
    ...Array.from({ length: blocks }, (_, at) => frameBlock(type, size, block, at === blocks - 1)),
    NO_CHECKSUM,
  ]);

const bad = (name: string, reason: string, says: string, bytes: () => Buffer): HostileCase => ({
  name,
  bytes,
  code: 'artifacts.bad_bundle',
  reason,
  says,
});
const over = (name: string, reason: string, says: string, bytes: () => Buffer): HostileCase => ({
  ...bad(name, reason, says, bytes),
  code: 'artifacts.bundle_limit',
});

export const HOSTILE_FRAMES: readonly HostileCase[] = [
  bad('nothing at all', 'truncated', 'The bundle ends too early: fetch it again.', () => Buffer.alloc(0)),
  bad('one byte', 'truncated', 'The bundle ends too early: fetch it again.', () => Buffer.from([0x28])),
  bad('a frame header and nothing else', 'truncated', 'The bundle ends too early: fetch it again.', () =>
    good().subarray(0, 7),
  ),
  bad('half a bundle', 'truncated', 'The bundle ends too early: fetch it again.', () =>
    good().subarray(0, good().length / 2),
  ),
  bad('a bundle without its last byte', 'truncated', 'The bundle ends too early: fetch it again.', () =>
    good().subarray(0, -1),
  ),
  bad('a tar that is not compressed', 'not_zstd', 'This is no bundle: it does not begin as zstd does.', () =>
    tarOf(entriesOf()),
  ),
  bad('a tar.gz', 'not_zstd', 'This is no bundle: it does not begin as zstd does.', () => gzipSync(tarOf(entriesOf()))),
  bad('JSON', 'not_zstd', 'This is no bundle: it does not begin as zstd does.', () =>
    Buffer.from('{"format": "aegis-artifact-1"}'),
  ),
  bad('a frame of zstd 0.7', 'not_zstd', 'This is no bundle: it does not begin as zstd does.', () => flipped(0, 0x0f)),
  bad(
    'a skippable frame in front',
    'zstd_skippable',
    'The bundle begins with a skippable zstd frame: a bundle is one frame and nothing else.',
    () => Buffer.concat([skippable('hidden'), good()]),
  ),
  bad('a skippable frame behind', 'zstd_frames', 'The bundle has more than one zstd frame.', () =>
    Buffer.concat([good(), skippable('hidden')]),
  ),
  bad('two bundles in one', 'zstd_frames', 'The bundle has more than one zstd frame.', () =>
    Buffer.concat([good(), good()]),
  ),
  bad('a second frame with another tar', 'zstd_frames', 'The bundle has more than one zstd frame.', () =>
    Buffer.concat([good(), bundleOf([{ name: 'evil.o', bytes: Buffer.from('x') }])]),
  ),
  bad(
    'a byte behind the frame',
    'zstd_trailing',
    "Behind the bundle's zstd frame stands something else (1 B): fetch it again.",
    () => Buffer.concat([good(), Buffer.of(0)]),
  ),
  bad(
    'text behind the frame',
    'zstd_trailing',
    "Behind the bundle's zstd frame stands something else (13 B): fetch it again.",
    () => Buffer.concat([good(), Buffer.from('#!/bin/sh\nid\n')]),
  ),
  bad(
    'a frame in a frame',
    'tar_length',
    "The bundle's tar has 539 bytes, which is no whole number of blocks of 512.",
    () => squeeze(good()),
  ),
  bad(
    'a bundle in a bundle',
    'tar_checksum',
    'A tar header of the bundle has a wrong checksum: fetch or pack it again.',
    () => squeeze(Buffer.concat([good(), Buffer.alloc(2048)]).subarray(0, 2048)),
  ),
  bad('no checksum', 'zstd_checksum_flag', 'The bundle has no zstd checksum: pack it with one (zstd --check).', () =>
    squeeze(tarOf(entriesOf()), { [constants.ZSTD_c_checksumFlag]: 0 }),
  ),
  bad(
    'no content size',
    'zstd_no_size',
    'The bundle does not declare its unpacked size: compress it from a file, not from a pipe.',
    () => squeeze(tarOf(entriesOf()), { [constants.ZSTD_c_contentSizeFlag]: 0 }),
  ),
  bad('a dictionary', 'zstd_dictionary', 'The bundle asks for a zstd dictionary.', () =>
    Buffer.concat([
      frameHeader({ contentBytes: 8n, descriptorBits: 1, dictionary: 7 }),
      frameBlock(1, 8, Buffer.of(0), true),
      NO_CHECKSUM,
    ]),
  ),
  bad('the reserved bit', 'zstd_reserved', "A reserved bit of the bundle's zstd header is set.", () =>
    flipped(4, 0x08),
  ),
  bad('the unused bit', 'zstd_reserved', "A reserved bit of the bundle's zstd header is set.", () => flipped(4, 0x10)),
  bad('a reserved block type', 'zstd_block', "A block of the bundle's zstd frame is of the reserved type.", () =>
    Buffer.concat([frameHeader({ contentBytes: 8n }), frameBlock(3, 8, Buffer.alloc(8), true), NO_CHECKSUM]),
  ),
  bad(
    'a block beyond 128 KiB',
    'zstd_block',
    "A block of the bundle's zstd frame has 131073 bytes: at most 131072 here.",
    () =>
      Buffer.concat([
        frameHeader({ contentBytes: 1_000_000n }),
        frameBlock(0, BLOCK + 1, Buffer.alloc(BLOCK + 1), true),
        NO_CHECKSUM,
      ]),
  ),
  bad(
    'a wrong checksum',
    'zstd_corrupt',
    'The bundle does not decompress: it is damaged. Fetch or pack it again.',
    () => flipped(good().length - 1, 0x01),
  ),
  bad(
    'damaged compressed bytes',
    'zstd_corrupt',
    'The bundle does not decompress: it is damaged. Fetch or pack it again.',
    () => flipped(60, 0xff),
  ),
  bad(
    'fewer bytes than declared',
    'content_size',
    'The bundle declares 4096 bytes, and its blocks hold at most 512.',
    () => Buffer.concat([frameHeader({ contentBytes: 4096n }), frameBlock(1, 512, Buffer.of(0), true), NO_CHECKSUM]),
  ),
  bad(
    '4 GiB of zeros in repeated blocks that declare 1 MiB',
    'content_size',
    'The bundle declares 1048576 bytes, and its blocks hold at least 4294967296.',
    () => bomb(BigInt(MIB), 32_768, Buffer.of(0), 1, BLOCK),
  ),
  bad(
    '4 GiB of zeros in compressed blocks that declare 1 MiB',
    'zstd_corrupt',
    'The bundle does not decompress: it is damaged. Fetch or pack it again.',
    () => {
      const block = zerosBlock();
      return bomb(BigInt(MIB), 32_768, block, 2, block.length);
    },
  ),
  over(
    '4 GiB of zeros in repeated blocks',
    'unpacked_size',
    'The bundle unpacks to 4294967296 bytes: at most 67108864.',
    () => bomb(2n ** 32n, 32_768, Buffer.of(0), 1, BLOCK),
  ),
  over(
    'a declared size of 2^63',
    'unpacked_size',
    'The bundle unpacks to 9223372036854776000 bytes: at most 67108864.',
    () => Buffer.concat([frameHeader({ contentBytes: 2n ** 63n }), frameBlock(1, 8, Buffer.of(0), true), NO_CHECKSUM]),
  ),
  over(
    'a declared size of 2^64 - 1',
    'unpacked_size',
    'The bundle unpacks to 18446744073709552000 bytes: at most 67108864.',
    () =>
      Buffer.concat([frameHeader({ contentBytes: 2n ** 64n - 1n }), frameBlock(1, 8, Buffer.of(0), true), NO_CHECKSUM]),
  ),
  over(
    '60 MiB of zeros',
    'ratio',
    'The bundle unpacks from 1943 to 62914560 bytes: beyond the first MiB at most 200 times its size.',
    () => squeeze(Buffer.alloc(60 * MIB)),
  ),
  over(
    'a window of 128 MiB',
    'window_size',
    'The bundle needs a zstd window of 134217728 bytes: at most 8388608.',
    () =>
      Buffer.concat([
        frameHeader({ contentBytes: 512n, window: 0x88 }),
        frameBlock(1, 512, Buffer.of(0), true),
        NO_CHECKSUM,
      ]),
  ),
  over('more than 16 MiB packed', 'packed_size', 'The bundle has 16777217 bytes: at most 16777216.', () =>
    Buffer.alloc(16 * MIB + 1, 0x28),
  ),
];
