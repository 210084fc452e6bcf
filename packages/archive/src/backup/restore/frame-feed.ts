import { createHash } from 'node:crypto';
import { AegisError } from '@aegis/protocol/errors';
import { ageDecrypter, decryptedSource } from '../age/decrypt.ts';
import type { Identity } from '../age/keys.ts';
import { SEGMENT_BYTES } from '../age/segments.ts';
import { type ByteSource, release } from '../bytes.ts';
import { measureFrame, unpackFrame } from '../zstd/read-frames.ts';
import { FRAME_LIMITS, type FrameTable } from './frame-table.ts';
import { badArchive, throwIfCancelled } from './refusals.ts';
import { runAhead } from './run-ahead.ts';

/** The tar, frame by frame: fetched, decrypted, and unpacked in libuv's thread pool ahead of whoever works on it. Either the whole archive with its
 *  SHA-256, or chosen frames by ranges. */

export interface TarFrame {
  /** In the tar. */
  start: number;
  end: number;
  /** Or why this frame cannot be had; those behind it may be good. */
  bytes: Buffer | AegisError;
}

export interface FrameFeed {
  /** The next frame, null behind the last one.
   *  @throws what the source throws; AegisError backups.bad_archive, backups.wrong_identity, backups.cancelled */
  next(): Promise<TarFrame | null>;
  close(): Promise<void>;
  /** Fetched so far. */
  archiveBytes(): number;
}

export interface Archive {
  source: ByteSource;
  stated: { bytes: number; sha256: string };
  table: FrameTable;
  /** Null: not encrypted. */
  identities: readonly Identity[] | null;
}

/** Unpacked, or in the thread pool: 4 MiB each, and the packed bytes while it is unpacked. */
const AHEAD = 3;

interface Packed {
  index: number;
  bytes: Buffer;
}

/** All frames; after the last one, that the archive was the stated one, to the byte. */
export const wholeArchive = (archive: Archive, signal?: AbortSignal): FrameFeed => {
  const fetched = { bytes: 0 };
  return feedOf(archive.table, wholePacked(archive, fetched, signal), fetched);
};

async function* wholePacked(
  { source, stated, table, identities }: Archive,
  fetched: { bytes: number },
  signal: AbortSignal | undefined,
): AsyncGenerator<Packed, void, undefined> {
  const hash = createHash('sha256');
  const decrypter = identities === null ? null : ageDecrypter(identities);
  const cut = frameCutter(table, 0, table.count);
  for await (const piece of source.read(0, source.size)) {
    throwIfCancelled(signal);
    hash.update(piece);
    fetched.bytes += piece.length;
    for (const plain of decrypter ? decrypter.push(piece) : [piece]) {
      yield* cut.push(plain);
      if (decrypter && plain.length === SEGMENT_BYTES) release(plain, SEGMENT_BYTES);
    }
  }
  if (decrypter) for (const plain of decrypter.end()) yield* cut.push(plain);
  cut.end();
  if (fetched.bytes !== stated.bytes || hash.digest('hex') !== stated.sha256)
    throw badArchive('archive_sha256', 'its SHA-256 is not the one that the node signed');
}

/** The chosen frames only, in order; neighbours in one request. `wanted(index)` for each frame of [from, until). */
export const chosenFrames = (
  archive: Archive,
  { from, until, wanted }: { from: number; until: number; wanted(index: number): boolean },
  signal?: AbortSignal,
): FrameFeed => {
  const fetched = { bytes: 0 };
  async function* packed(): AsyncGenerator<Packed, void, undefined> {
    const { table, identities } = archive;
    const plain = identities === null ? archive.source : await decryptedSource(archive.source, identities);
    if (plain.size !== table.packedBytes) throw badArchive('size', 'it has not the length that its manifest says');
    for (let index = from; index < until; ) {
      if (!wanted(index)) {
        index += 1;
        continue;
      }
      let end = index + 1;
      while (end < until && wanted(end)) end += 1;
      const cut = frameCutter(table, index, end);
      for await (const piece of plain.read(table.packedStart(index), table.packedStart(end))) {
        throwIfCancelled(signal);
        fetched.bytes += piece.length;
        yield* cut.push(piece);
      }
      cut.end();
      index = end;
    }
  }
  return feedOf(archive.table, packed(), fetched);
};

const feedOf = (table: FrameTable, packed: AsyncIterable<Packed>, fetched: { bytes: number }): FrameFeed => {
  // In an object: an async generator would wait for a bare promise, and with it for each frame before the next one is begun.
  async function* unpacking(): AsyncGenerator<{ frame: Promise<TarFrame> }, void, undefined> {
    for await (const { index, bytes } of packed) yield { frame: unpack(table, index, bytes) };
  }
  const frames = runAhead(unpacking(), AHEAD);
  return {
    next: async () => {
      const { value } = await frames.next();
      return value ? await value.frame : null;
    },
    close: async () => {
      await frames.return();
    },
    archiveBytes: () => fetched.bytes,
  };
};

/** Cuts the packed stream where the table says that frames [from, until) end. */
const frameCutter = (table: FrameTable, from: number, until: number) => {
  let index = from;
  let held: Buffer | null = null;
  let filled = 0;
  return {
    *push(piece: Buffer): Generator<Packed, void, undefined> {
      for (let at = 0; at < piece.length; ) {
        if (index >= until) throw badArchive('size', 'it goes on behind its last frame');
        held ??= Buffer.allocUnsafeSlow(table.packedStart(index + 1) - table.packedStart(index));
        const copied = piece.copy(held, filled, at);
        at += copied;
        filled += copied;
        if (filled < held.length) continue;
        const bytes = held;
        held = null;
        filled = 0;
        yield { index: index++, bytes };
      }
    },
    end: (): void => {
      if (index !== until) throw badArchive('truncated', 'it ends too early');
    },
  };
};

/** Never rejects: what is wrong with one frame is told to whoever needs it. */
const unpack = async (table: FrameTable, index: number, packed: Buffer): Promise<TarFrame> => {
  const start = table.tarStart(index);
  const end = table.tarStart(index + 1);
  const refuse = (reason: string, fault: string) =>
    badArchive(reason, `${fault} (frame ${index + 1})`, { frame: index });
  try {
    const measured = measureFrame(packed, 0, FRAME_LIMITS, refuse);
    if (measured?.packedBytes !== packed.length || measured.contentBytes !== end - start)
      throw refuse('zstd_form', 'a zstd frame has not the length that the manifest says');
    const bytes = await unpackFrame(packed, end - start, refuse);
    release(packed);
    return { start, end, bytes };
  } catch (error) {
    if (error instanceof AegisError) return { start, end, bytes: error };
    throw error;
  }
};
