import { badManifest } from './refusals.ts';

/** Where each zstd frame of an archive begins, in the tar and in the packed (decrypted) archive: from the manifest's `frames` lines. 16 bytes a
 *  frame, so 4 MiB for a tar of 1 TiB. */

/** Of one frame: the writer's have 4 MiB of tar. Both are held in memory. */
export const FRAME_LIMITS = { contentBytes: 16 * 1024 * 1024, packedBytes: 17 * 1024 * 1024 };

/** 64 TiB of tar. */
const MOST_FRAMES = 16 * 1024 * 1024;

export interface FrameTable {
  readonly count: number;
  readonly tarBytes: number;
  readonly packedBytes: number;
  /** Of frame `index`; the count itself gives the end. */
  tarStart(index: number): number;
  packedStart(index: number): number;
  /** The frame that holds this byte of the tar. */
  at(tarOffset: number): number;
}

export interface GrowingFrameTable extends FrameTable {
  /** @throws AegisError backups.bad_manifest */
  add(tarBytes: number, packedBytes: number): void;
}

export const frameTable = (): GrowingFrameTable => {
  let tar = new Float64Array(1025);
  let packed = new Float64Array(1025);
  let count = 0;
  return {
    get count() {
      return count;
    },
    get tarBytes() {
      return tar[count] ?? 0;
    },
    get packedBytes() {
      return packed[count] ?? 0;
    },
    tarStart: (index) => tar[index] ?? 0,
    packedStart: (index) => packed[index] ?? 0,
    at: (offset) => {
      let low = 0;
      let high = count - 1;
      while (low < high) {
        const middle = (low + high + 1) >>> 1;
        if ((tar[middle] ?? 0) <= offset) low = middle;
        else high = middle - 1;
      }
      return low;
    },
    add: (tarBytes, packedBytes) => {
      if (tarBytes > FRAME_LIMITS.contentBytes || packedBytes > FRAME_LIMITS.packedBytes)
        throw badManifest('limit', `a zstd frame of ${tarBytes} bytes is larger than Aegis makes them`);
      if (count === MOST_FRAMES) throw badManifest('limit', `it has more than ${MOST_FRAMES} zstd frames`);
      if (count + 2 > tar.length) {
        tar = grown(tar);
        packed = grown(packed);
      }
      tar[count + 1] = (tar[count] ?? 0) + tarBytes;
      packed[count + 1] = (packed[count] ?? 0) + packedBytes;
      count += 1;
    },
  };
};

const grown = (old: Float64Array<ArrayBuffer>): Float64Array<ArrayBuffer> => {
  const larger = new Float64Array(old.length * 2);
  larger.set(old);
  return larger;
};
