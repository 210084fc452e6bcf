import { setImmediate } from 'node:timers/promises';
import type { FrameFeed, TarFrame } from './frame-feed.ts';
import { badArchive } from './refusals.ts';

/** Bytes of the tar by their offsets, which only rise: what lies in the frame at hand is there at once, anything else is waited for. */
export interface TarWindow {
  /** Null when they do not lie in the frame at hand whole. Shares its memory.
   *  @throws AegisError backups.bad_archive where that frame is damaged */
  view(start: number, end: number): Buffer | null;
  /** The same for any length, as a copy.
   *  @throws AegisError backups.bad_archive; and what the source throws */
  gather(start: number, end: number): Promise<Buffer>;
  /** Each piece is there until the next one is asked for.
   *  @throws as `gather` */
  pieces(start: number, end: number): AsyncGenerator<Buffer, void, undefined>;
  /** Why there is nothing more to come; not set by a single frame that is damaged. */
  readonly failure: unknown;
  /** Nothing may follow `offset` but the end, and the end be proven. */
  finish(offset: number): Promise<void>;
}

/** @param left told of each frame's bytes when no byte of it is asked for any more; views that were given out may still be in use */
export const tarWindow = (feed: FrameFeed, left: (bytes: Buffer) => void = () => undefined): TarWindow => {
  let frame: TarFrame | null = null;
  let failure: unknown;
  const nextFrame = async (): Promise<TarFrame | null> => {
    try {
      return await feed.next();
    } catch (error) {
      failure = error;
      throw error;
    }
  };
  const frameAt = async (offset: number): Promise<TarFrame> => {
    while (!frame || frame.end <= offset) {
      if (frame && Buffer.isBuffer(frame.bytes)) left(frame.bytes);
      frame = await nextFrame();
      // Callers work on a whole frame without waiting: timers, signals and sockets get their turn here.
      await setImmediate();
      if (!frame) {
        failure = badArchive('truncated', 'it ends too early');
        throw failure;
      }
    }
    if (frame.start > offset) throw new Error(`the tar was read from ${frame.start} on, and ${offset} is asked for`);
    return frame;
  };
  async function* pieces(start: number, end: number): AsyncGenerator<Buffer, void, undefined> {
    for (let at = start; at < end; ) {
      const { start: from, bytes } = await frameAt(at);
      const piece = usable(bytes).subarray(at - from, Math.min(end - from, usable(bytes).length));
      at += piece.length;
      yield piece;
    }
  }
  return {
    view: (start, end) => {
      if (!frame || start < frame.start || start >= frame.end) return null;
      const bytes = usable(frame.bytes);
      return end <= frame.end ? bytes.subarray(start - frame.start, end - frame.start) : null;
    },
    gather: async (start, end) => {
      // Copied piece by piece: what was seen of one frame may be gone once the next one is there.
      const all = Buffer.allocUnsafeSlow(end - start);
      let at = 0;
      for await (const piece of pieces(start, end)) at += piece.copy(all, at);
      return all;
    },
    pieces,
    get failure() {
      return failure;
    },
    finish: async (offset) => {
      if (frame && frame.end > offset) throw badArchive('size', 'it goes on behind its end');
      const more = await nextFrame();
      if (more) throw badArchive('size', 'it goes on behind its end');
    },
  };
};

const usable = (bytes: TarFrame['bytes']): Buffer => {
  if (!Buffer.isBuffer(bytes)) throw bytes;
  return bytes;
};
