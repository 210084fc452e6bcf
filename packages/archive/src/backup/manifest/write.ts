import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { constants, zstdCompress } from 'node:zlib';
import { AegisError } from '@aegis/protocol/errors';
import { ageEncrypter } from '../age/encrypt.ts';
import type { ByteSink } from '../bytes.ts';
import { backupText, endText, entryText, errorText, framesText } from './line-text.ts';
import { type Entry, type EntryError, type FramePair, MAX_PATH_BYTES, type ManifestEnd } from './lines.ts';

/** A manifest as it grows: text is gathered up to 512 Ki characters, packed as a zstd frame in libuv's thread pool, encrypted, and given to the sink in
 *  order. At most three such pieces are in memory. */

const PIECE_CHARS = 512 * 1024;
const MAX_PENDING = 2;
const FRAMES_OF_LINE = 1024;
const MAX_ERROR_CHARS = 1000;
const packing = promisify(zstdCompress);

export interface ManifestWriter {
  /** Entries in the archive's order. A promise that is returned must be awaited before the next call; so of the others.
   *  @throws AegisError backups.limit for a path beyond MAX_PATH_BYTES, and nothing is written of it */
  entry(entry: Entry): void | Promise<void>;
  error(error: EntryError): void | Promise<void>;
  /** The archive's next frame: bytes of tar in it, and packed. */
  frame(tarBytes: number, packedBytes: number): void | Promise<void>;
  /** The last line; the sink has everything when it resolves. Bytes and SHA-256 are of what the sink got. */
  end(end: Omit<ManifestEnd, 'entries' | 'errors'>): Promise<{ bytes: number; sha256: string }>;
}

export interface ManifestOptions {
  /** Fields of the first line, behind `type` and `format`: anything of JSON. */
  header: Readonly<Record<string, unknown>>;
  /** None: not encrypted. */
  recipients: readonly string[];
  /** Of zstd; half of the bytes are digests, which no level packs. */
  level?: number;
}

/** @throws AegisError backups.bad_recipient */
export const manifestWriter = (sink: ByteSink, { header, recipients, level = 1 }: ManifestOptions): ManifestWriter => {
  const age = recipients.length > 0 ? ageEncrypter(recipients) : null;
  const hash = createHash('sha256');
  const params = { [constants.ZSTD_c_compressionLevel]: level, [constants.ZSTD_c_checksumFlag]: 1 };
  let lines: string[] = [backupText(header)];
  let chars = 0;
  let frames: FramePair[] = [];
  const counts = { entries: 0, errors: 0, bytes: 0 };

  const emit = async (pieces: readonly Buffer[]): Promise<void> => {
    for (const piece of pieces) {
      if (piece.length === 0) continue;
      hash.update(piece);
      counts.bytes += piece.length;
      await sink.write(piece);
    }
  };
  let pending = 0;
  let inOrder: Promise<void> = age ? emit([age.header]) : Promise.resolve();
  inOrder.catch(() => undefined); // told by whoever waits for it next
  const flush = (): Promise<void> | undefined => {
    const text = Buffer.from(`${lines.join('\n')}\n`, 'utf8');
    lines = [];
    chars = 0;
    const packed = packing(text, { pledgedSrcSize: text.length, params });
    pending += 1;
    const before = inOrder;
    inOrder = (async () => {
      const [bytes] = await Promise.all([packed, before]);
      await emit(age ? age.push(bytes) : [bytes]);
      pending -= 1;
    })();
    inOrder.catch(() => undefined);
    return pending > MAX_PENDING ? before : undefined;
  };
  const add = (line: string): Promise<void> | undefined => {
    lines.push(line);
    chars += line.length;
    return chars >= PIECE_CHARS ? flush() : undefined;
  };
  const addFrames = (): Promise<void> | undefined => {
    const line = framesText(frames);
    frames = [];
    return add(line);
  };

  return {
    entry: (entry) => {
      if (Math.max(entry.path.length, entry.target?.length ?? 0) > MAX_PATH_BYTES)
        throw new AegisError('backups.limit', `A path has more than ${MAX_PATH_BYTES} bytes: it cannot be recorded.`);
      counts.entries += 1;
      return add(entryText(entry));
    },
    error: ({ path, code, message }) => {
      counts.errors += 1;
      return add(
        errorText({
          path: path.subarray(0, MAX_PATH_BYTES),
          code,
          message: message.slice(0, MAX_ERROR_CHARS).toWellFormed(),
        }),
      );
    },
    frame: (tarBytes, packedBytes) => {
      frames.push([tarBytes, packedBytes]);
      return frames.length >= FRAMES_OF_LINE ? addFrames() : undefined;
    },
    end: async (end) => {
      if (frames.length > 0) await addFrames();
      await add(endText({ ...end, entries: counts.entries, errors: counts.errors }));
      if (lines.length > 0) flush();
      await inOrder;
      if (age) await emit(age.end());
      return { bytes: counts.bytes, sha256: hash.digest('hex') };
    },
  };
};
