import { randomBytes } from 'node:crypto';
import { constants, zstdCompressSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { measureFrame, unpackFrames } from './read-frames.ts';

const LIMITS = { packedBytes: 200_000, contentBytes: 200_000 };
const refuse = (reason: string) => new Error(reason);
const packed = (content: Buffer, params: Record<number, number> = {}) =>
  zstdCompressSync(content, { pledgedSrcSize: content.length, params });
const unpacked = async (bytes: Buffer, step = 1000, limits = LIMITS): Promise<Buffer[]> => {
  const pieces = async function* () {
    for (let at = 0; at < bytes.length; at += step) yield bytes.subarray(at, at + step);
  };
  const contents: Buffer[] = [];
  for await (const content of unpackFrames(pieces(), limits, refuse)) contents.push(content);
  return contents;
};
const CONTENTS = [
  randomBytes(100_000),
  Buffer.alloc(150_000, 'abc'),
  Buffer.alloc(0),
  Buffer.from('x'),
  randomBytes(300),
];
const FRAMES = CONTENTS.map((content, nr) => packed(content, { [constants.ZSTD_c_checksumFlag]: nr % 2 }));
const ALL = Buffer.concat(FRAMES);

test.each([1, 3, 1000, 99_999, 1_000_000])('frames one behind the other, %i bytes at a time', async (step) => {
  expect((await unpacked(ALL, step)).map((content, nr) => content.equals(CONTENTS[nr] as Buffer))).toEqual([
    true,
    true,
    true,
    true,
    true,
  ]);
});

test('how long a frame is, from nothing but its headers', () => {
  let at = 0;
  for (const [nr, frame] of FRAMES.entries()) {
    expect(measureFrame(ALL, at, LIMITS, refuse)).toEqual({
      packedBytes: frame.length,
      contentBytes: CONTENTS[nr]?.length,
    });
    for (const end of [0, 4, 5, frame.length - 1])
      expect(measureFrame(ALL.subarray(0, at + end), at, LIMITS, refuse)).toBeNull();
    at += frame.length;
  }
});

const zeros = packed(Buffer.alloc(100_000));
test.each<[string, string, Buffer]>([
  ['something else', 'zstd_magic', Buffer.from('something else')],
  ['something behind a frame', 'zstd_magic', Buffer.concat([zeros, Buffer.from('more that is no frame')])],
  ['a skippable frame', 'zstd_magic', Buffer.from('502a4d1804000000deadbeef', 'hex')],
  ['a cut', 'zstd_truncated', ALL.subarray(0, -1)],
  ['a byte of a frame', 'zstd_truncated', Buffer.concat([zeros, Buffer.from('28', 'hex')])],
  [
    'no declared size',
    'zstd_form',
    zstdCompressSync(randomBytes(3000), { params: { [constants.ZSTD_c_contentSizeFlag]: 0 } }),
  ],
  ['more content than is taken', 'zstd_limit', packed(Buffer.alloc(200_001))],
  [
    'more packed bytes than are taken',
    'zstd_limit',
    Buffer.concat([
      zeros.subarray(0, 4),
      Buffer.from('a000000100', 'hex'),
      ...Array.from({ length: 3 }, () => Buffer.concat([Buffer.from([0, 0, 16]), Buffer.alloc(131_072)])),
    ]),
  ],
  ['a smaller content than declared', 'zstd_corrupt', altered(packed(Buffer.from('hello world')), 5, 12)],
  ['a larger content than declared', 'zstd_corrupt', altered(packed(Buffer.from('hello world')), 5, 10)],
])('refuses %s', async (_, reason, bytes) => {
  for (const step of [7, 1_000_000]) await expect(unpacked(bytes, step)).rejects.toThrow(new Error(reason));
});

function altered(bytes: Buffer, at: number, to: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = to;
  return copy;
}

test('nothing at all is no frame', async () => {
  expect(await unpacked(Buffer.alloc(0))).toEqual([]);
});

test('a caller that stops early leaves nothing behind that fails', async () => {
  const bytes = Buffer.concat([zeros, altered(zeros, zeros.length - 3, 0xff), zeros]);
  for await (const content of unpackFrames(
    (async function* () {
      yield bytes;
    })(),
    LIMITS,
    refuse,
  )) {
    expect(content.length).toBe(100_000);
    break;
  }
});
