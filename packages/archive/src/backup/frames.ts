import { setImmediate } from 'node:timers/promises';
import { constants, createZstdCompress } from 'node:zlib';
import { release } from './bytes.ts';
import { measureFrame } from './zstd/read-frames.ts';

/** The tar of a backup, packed: independent zstd frames of 4 MiB of tar each (the last one has less), with content size and checksum. Several are
 *  packed at once in libuv's thread pool and leave in order. Independent, because zstd's own threads crash Node.js 24's stream
 *  (nodejs/node#59899), and because a part of the archive can be unpacked alone. `zstd -d` takes the frames for one stream. */

export const FRAME_BYTES = 4 * 1024 * 1024;
/** ZSTD_compressBound of a frame: with room for it, zstd packs in one call, into one buffer. */
const PACKED_BYTES = FRAME_BYTES + FRAME_BYTES / 256 + 64;

export interface FrameWriter {
  /** The frame that is being filled, so that files are read right into it: at `at`, at most `room()` bytes, told by `advance`.
   *  Another buffer after each `flush`. */
  readonly buffer: Buffer;
  readonly at: number;
  /** Bytes of tar so far. */
  readonly tarBytes: number;
  room(): number;
  advance(bytes: number): void;
  /** Packs what is in the frame; to be called when there is no room. Waits while enough frames are under way.
   *  @throws what `write` throws */
  flush(): Promise<void>;
  /** Copies. A promise that is returned must be awaited before the next call. */
  append(bytes: Buffer): undefined | Promise<void>;
  zeros(bytes: number): undefined | Promise<void>;
  /** Packs the rest; everything was written when it resolves. */
  end(): Promise<void>;
  /** After an error: waits for what the thread pool still does with our buffers. */
  abandon(): Promise<void>;
}

export interface FrameOptions {
  level: number;
  /** Frames under way, beside the one that is filled: memory is about three times 4 MiB for each. */
  ahead: number;
  /** One packed frame, in order. Its memory is gone when the promise resolves. */
  write(packed: Buffer, tarBytes: number): Promise<void>;
}

export const frameWriter = ({ level, ahead, write }: FrameOptions): FrameWriter => {
  const free: Buffer[] = [];
  const take = (): Buffer => free.pop() ?? Buffer.allocUnsafeSlow(FRAME_BYTES);
  let buffer = take();
  let at = 0;
  let before = 0;
  let inOrder: Promise<void> = Promise.resolve();
  const underWay: Promise<void>[] = [];

  const submit = (): void => {
    const filled = buffer;
    const bytes = at;
    const packed = packFrame(filled.subarray(0, bytes), level);
    const turn = inOrder;
    inOrder = (async () => {
      try {
        const [frame] = await Promise.all([packed, turn]);
        await write(frame, bytes);
        release(frame);
      } finally {
        await packed.catch(() => undefined); // not before the thread pool lets go of it
        free.push(filled);
      }
    })();
    inOrder.catch(() => undefined); // thrown by whoever waits for it next
    underWay.push(inOrder);
    before += bytes;
    at = 0;
  };
  const flush = async (): Promise<void> => {
    if (at > 0) submit();
    // Also where there is nothing to wait for: signals, timers and other runs get their turn once a frame.
    await setImmediate();
    while (underWay.length > ahead) await underWay.shift();
    buffer = take();
  };
  const put = async (bytes: number, fill: (from: number, count: number) => void): Promise<void> => {
    for (let from = 0; from < bytes; ) {
      if (at === FRAME_BYTES) await flush();
      const count = Math.min(bytes - from, FRAME_BYTES - at);
      fill(from, count);
      at += count;
      from += count;
    }
  };

  return {
    get buffer() {
      return buffer;
    },
    get at() {
      return at;
    },
    get tarBytes() {
      return before + at;
    },
    room: () => FRAME_BYTES - at,
    advance: (bytes) => {
      at += bytes;
    },
    flush,
    append: (bytes) => {
      if (bytes.length > FRAME_BYTES - at)
        return put(bytes.length, (from, count) => bytes.copy(buffer, at, from, from + count));
      at += bytes.copy(buffer, at);
      return undefined;
    },
    zeros: (bytes) => {
      if (bytes > FRAME_BYTES - at) return put(bytes, (_, count) => buffer.fill(0, at, at + count));
      if (bytes > 0) buffer.fill(0, at, at + bytes);
      at += bytes;
      return undefined;
    },
    end: async () => {
      if (at > 0) submit();
      await inOrder;
    },
    abandon: async () => {
      await Promise.allSettled(underWay);
    },
  };
};

/** One write that ends the frame, with room for all that may come: zstd then packs from our buffer into the one that is handed out. `zstdCompress` of
 *  node:zlib ends a frame by a second call, and copies both results together, which takes a seventh more. */
export const packFrame = (tar: Buffer, level: number): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    const engine = createZstdCompress({
      chunkSize: PACKED_BYTES,
      flush: constants.ZSTD_e_end,
      params: {
        [constants.ZSTD_c_compressionLevel]: level,
        [constants.ZSTD_c_contentSizeFlag]: 1,
        [constants.ZSTD_c_checksumFlag]: 1,
        [constants.ZSTD_c_nbWorkers]: 0,
      },
    });
    const pieces: Buffer[] = [];
    engine.on('data', (piece: Buffer) => pieces.push(piece));
    engine.on('error', reject);
    engine.write(tar, (error) => {
      engine.destroy();
      if (error) return reject(error);
      const [first] = pieces;
      const packed = pieces.length === 1 && first ? first : Buffer.concat(pieces);
      const frame = measureFrame(packed, 0, { packedBytes: packed.length, contentBytes: tar.length }, notOurs);
      if (frame?.packedBytes === packed.length && frame.contentBytes === tar.length) resolve(packed);
      else reject(notOurs('zstd_form', 'it is not one frame'));
    });
  });

const notOurs = (reason: string, fault: string): Error =>
  new Error(`zstd packed a frame wrongly: ${fault} (${reason})`);
