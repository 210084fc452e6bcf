import { setImmediate } from 'node:timers/promises';
import type { FrameFeed, TarFrame } from './frame-feed.ts';
import { badArchive } from './refusals.ts';

/** Bytes of the tar by their offsets, which only rise: what lies in the frame at hand is there at once, anything else is waited for. */
export interface TarWindow {
  /** Null when they do not lie in the frame at hand whole. Shares its memory.
   *  @throws AegisError backups.bad_archive where that frame is damaged */
  view(start: number, end: number): Buffer | null;
  /** The same for any length, copied together where needed.
   *  @throws AegisError backups.bad_archive; and what the source throws */
  gather(start: number, end: number): Promise<Buffer>;
  /** @throws as `gather` */
  pieces(start: number, end: number): AsyncGenerator<Buffer, void, undefined>;
  /** Why there is nothing more to come; not set by a single frame that is damaged. */
  readonly failure: unknown;
  /** Nothing may follow `offset` but the end, and the end be proven. */
  finish(offset: number): Promise<void>;
}

export const tarWindow = (feed: FrameFeed): TarWindow => {
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
      const all: Buffer[] = [];
      for await (const piece of pieces(start, end)) all.push(piece);
      return all.length === 1 && all[0] ? all[0] : Buffer.concat(all);
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
