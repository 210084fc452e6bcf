import { createHash, hash } from 'node:crypto';
import { EMPTY, type FileCalls, STAT, STAT_FIELDS } from '@aegis/native/files';
import type { FrameWriter } from './frames.ts';
import type { EntryStatus } from './manifest/lines.ts';
import { failureOf } from './source-problem.ts';
import { field, type StatNumbers } from './source-stat.ts';
import type { SparseLayout } from './sparse.ts';
import { paddingOf } from './tar-header.ts';

/** A file's content on its way into the tar, exactly as many bytes as its header says whatever the file does meanwhile: cut where it
 *  grew, zeros where it shrank or cannot be read. What happened is told. */

export interface Stored {
  /** Of the data area as it stands in the tar, padding left out. */
  sha256: string;
  status: EntryStatus | null;
  /** For people, where there is a status. */
  message: string;
}

export interface FileDataDeps {
  files: FileCalls;
  frames: FrameWriter;
  /** After each piece of a large file: progress; throws to end the run. */
  onBytes(count: number): void;
}

export interface OpenFile {
  fd: number;
  /** At the start: header and data area go by it. */
  stat: StatNumbers;
}

/** On what a disk cannot read, this many places are tried; then the rest counts as unreadable. */
const MOST_FAULTS = 64;
const SECTOR_BYTES = 4096;

/** What reading has met so far. */
interface Reading {
  /** Nothing more is read; zeros from here on. */
  stopped: boolean;
  endedAt: number | null;
  faults: number;
  firstFault: number;
  lostBytes: number;
  code: string;
}

export const fileData = ({ files, frames, onBytes }: FileDataDeps) => {
  const after = new Float64Array(STAT_FIELDS);
  const newReading = (): Reading => ({
    stopped: false,
    endedAt: null,
    faults: 0,
    firstFault: 0,
    lostBytes: 0,
    code: '',
  });

  /** Fills the frame with `length` bytes of the file, zeros where there are none. Does not advance. */
  const fill = (reading: Reading, fd: number, length: number, position: number, at: number): void => {
    for (let done = 0; done < length; ) {
      if (reading.stopped) {
        frames.buffer.fill(0, at + done, at + length);
        return;
      }
      try {
        const count = files.readInto(fd, frames.buffer, at + done, length - done, position + done);
        if (count === 0) {
          reading.stopped = true;
          reading.endedAt = position + done;
        }
        done += count;
      } catch (error) {
        const { code } = failureOf(error);
        const skipped = Math.min(SECTOR_BYTES - ((position + done) % SECTOR_BYTES), length - done);
        if (reading.faults === 0) reading.firstFault = position + done;
        reading.faults += 1;
        reading.lostBytes += skipped;
        reading.code = code;
        reading.stopped = code !== 'EIO' || reading.faults >= MOST_FAULTS;
        frames.buffer.fill(0, at + done, at + done + skipped);
        done += skipped;
      }
    }
  };

  const verdict = (reading: Reading, { fd, stat }: OpenFile): Pick<Stored, 'status' | 'message'> => {
    const size = field(stat, STAT.size);
    if (reading.faults > 0) {
      const where = reading.stopped ? `from byte ${reading.firstFault} on` : `in ${reading.lostBytes} bytes`;
      return { status: 'unreadable-part', message: `could not be read ${where} (${reading.code}): zeros stand there` };
    }
    if (reading.endedAt !== null)
      return { status: 'shrunk', message: `shrank while it was read: zeros from byte ${reading.endedAt} on` };
    try {
      files.statAt(fd, EMPTY, after);
    } catch (error) {
      const { code } = failureOf(error);
      return { status: 'changed', message: `could not be looked at after it was read (${code})` };
    }
    if (field(after, STAT.size) > size)
      return { status: 'grown', message: `grew while it was read: only its first ${size} bytes are stored` };
    return SAME.every((index) => after[index] === stat[index])
      ? { status: null, message: '' }
      : { status: 'changed', message: 'changed while it was read: parts of what is stored may be older than others' };
  };

  const storePiece = async (
    { fd }: OpenFile,
    reading: Reading,
    sum: ReturnType<typeof createHash>,
    { offset, length }: { offset: number; length: number },
  ): Promise<void> => {
    for (let done = 0; done < length; ) {
      if (frames.room() === 0) await frames.flush();
      const count = Math.min(length - done, frames.room());
      const at = frames.at;
      fill(reading, fd, count, offset + done, at);
      sum.update(frames.buffer.subarray(at, at + count));
      frames.advance(count);
      done += count;
      onBytes(count);
    }
  };

  return {
    /** When header, content and padding have room in the frame: all in one go, and without a promise. */
    storeSmall: (file: OpenFile, header: Buffer): Stored => {
      const size = field(file.stat, STAT.size);
      const from = frames.at + header.copy(frames.buffer, frames.at);
      const reading = newReading();
      fill(reading, file.fd, size, 0, from);
      const padding = paddingOf(size);
      frames.buffer.fill(0, from + size, from + size + padding);
      const sha256 = hash('sha256', frames.buffer.subarray(from, from + size));
      frames.advance(header.length + size + padding);
      onBytes(size);
      return { sha256, ...verdict(reading, file) };
    },
    store: async (file: OpenFile, header: Buffer, layout: SparseLayout | null): Promise<Stored> => {
      await frames.append(header);
      const sum = createHash('sha256');
      const reading = newReading();
      if (layout) {
        sum.update(layout.map);
        await frames.append(layout.map);
      }
      const size = field(file.stat, STAT.size);
      for (const segment of layout?.segments ?? [{ offset: 0, length: size }])
        await storePiece(file, reading, sum, segment);
      await frames.zeros(paddingOf(layout?.dataBytes ?? size));
      return { sha256: sum.digest('hex'), ...verdict(reading, file) };
    },
  };
};

const SAME = [STAT.size, STAT.mtimeSec, STAT.mtimeNsec, STAT.ctimeSec, STAT.ctimeNsec] as const;
