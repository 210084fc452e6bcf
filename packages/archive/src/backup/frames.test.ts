import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { FRAME_BYTES, frameWriter } from './frames.ts';

/** Not alike from frame to frame. */
const contentOf = (bytes: number): Buffer => {
  const content = Buffer.alloc(bytes);
  for (let at = 0; at + 4 <= bytes; at += 4) content.writeUInt32LE((at * 2_654_435_761) >>> 7, at);
  return content;
};

test('frames of one length, in order, whatever the pieces are', async () => {
  const content = contentOf(3 * FRAME_BYTES + 12_345);
  const packed: Buffer[] = [];
  const lengths: number[] = [];
  let writing = 0;
  const frames = frameWriter({
    level: 1,
    ahead: 2,
    write: async (bytes, tarBytes) => {
      expect(++writing).toBe(1);
      await Promise.resolve();
      packed.push(Buffer.from(bytes)); // lent
      lengths.push(tarBytes);
      writing -= 1;
    },
  });
  for (let at = 0; at < content.length; at += 777_777) await frames.append(content.subarray(at, at + 777_777));
  await frames.zeros(600);
  expect(frames.tarBytes).toBe(content.length + 600);
  await frames.end();
  expect(lengths).toEqual([FRAME_BYTES, FRAME_BYTES, FRAME_BYTES, 12_345 + 600]);
  const unpacked = execFileSync('zstd', ['-dcq'], { input: Buffer.concat(packed), maxBuffer: 2 ** 30 });
  expect(unpacked.equals(Buffer.concat([content, Buffer.alloc(600)]))).toBe(true);
  for (const frame of packed)
    expect(execFileSync('zstd', ['-dcq'], { input: frame, maxBuffer: 2 ** 30 }).length % FRAME_BYTES).toBe(
      frame === packed.at(-1) ? 12_945 : 0,
    );
});

test('no more frames are under way than was said, and a writer that fails is heard', async () => {
  const started: number[] = [];
  let open = (): void => undefined;
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  const frames = frameWriter({
    level: 1,
    ahead: 2,
    write: async () => {
      started.push(started.length);
      await gate;
      throw new Error('no room');
    },
  });
  const piece = Buffer.alloc(FRAME_BYTES);
  for (let count = 0; count < 3; count++) await frames.append(piece);
  let flushed = false;
  const fourth = Promise.resolve(frames.append(piece)).finally(() => {
    flushed = true;
  });
  fourth.catch(() => undefined);
  await new Promise((resolve) => setImmediate(resolve));
  expect(flushed).toBe(false);
  open();
  await expect(fourth).rejects.toThrow('no room');
  await expect(frames.end()).rejects.toThrow('no room');
  await frames.abandon();
  expect(started).toEqual([0]);
});
