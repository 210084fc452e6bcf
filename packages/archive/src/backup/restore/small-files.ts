import { type BatchFile, type BatchOutcome, writeFiles } from '@aegis/native/file-batch';
import { release } from '../bytes.ts';
import type { Level } from './target-tree.ts';

/** Small files on their way to the disk: gathered while the restore goes on, and written batch by batch, one batch at a time, so in their order. A folder
 *  that the restore has left is finished when the last of its files is there. */

export interface SmallFile extends Omit<BatchFile, 'dirFd'> {
  level: Level;
  /** Told once; may throw what ends the restore. */
  done(outcome: BatchOutcome): void;
}

export interface SmallFiles {
  add(file: SmallFile): void;
  /** Null while there is room for more; else what to wait for.
   *  @throws what a `done` threw */
  room(): Promise<void> | null;
  /** Gives memory back to the system, as soon as no file that waits lies in it. */
  release(bytes: Buffer): void;
  /** Until all are written.
   *  @throws what a `done` threw */
  drain(): Promise<void>;
}

const BATCH_FILES = 128;
/** And what is gathered or under way beside it, three times at most: frames stay in memory until their files are written. */
const BATCH_BYTES = 2 * 1024 * 1024;
const MOST_WAITING = 2;

export const smallFiles = (write: typeof writeFiles = writeFiles): SmallFiles => {
  let gathered: SmallFile[] = [];
  let gatheredBytes = 0;
  let waiting = 0;
  let inOrder: Promise<void> = Promise.resolve();
  let failure: { error: unknown } | null = null;

  /** Of the files that wait, how many lie in each buffer; and buffers that nobody else needs. */
  const used = new Map<ArrayBufferLike, number>();
  const left = new Map<ArrayBufferLike, Buffer>();

  const letGo = ({ buffer }: Buffer): void => {
    const others = (used.get(buffer) ?? 1) - 1;
    if (others > 0) used.set(buffer, others);
    else {
      used.delete(buffer);
      const bytes = left.get(buffer);
      left.delete(buffer);
      if (bytes) release(bytes);
    }
  };
  const finish = (file: SmallFile, outcome: BatchOutcome): void => {
    try {
      file.done(outcome);
    } catch (error) {
      failure ??= { error };
    }
    letGo(file.data);
    const { level } = file;
    level.pending -= 1;
    if (level.pending > 0 || !level.whenDone) return;
    const whenDone = level.whenDone;
    level.whenDone = null;
    whenDone();
  };
  const submit = (): void => {
    if (gathered.length === 0) return;
    const files = gathered;
    gathered = [];
    gatheredBytes = 0;
    waiting += 1;
    const before = inOrder;
    inOrder = (async () => {
      await before;
      const outcomes = await write(files.map(({ level, ...file }) => ({ ...file, dirFd: level.fd })));
      waiting -= 1;
      for (const [index, file] of files.entries()) finish(file, outcomes[index] ?? 'wrong-digest');
    })();
    inOrder.catch((error: unknown) => {
      failure ??= { error };
    });
  };
  const throwFailure = (): void => {
    if (failure) throw failure.error;
  };
  return {
    add: (file) => {
      file.level.pending += 1;
      used.set(file.data.buffer, (used.get(file.data.buffer) ?? 0) + 1);
      gathered.push(file);
      gatheredBytes += file.data.length;
      if (gathered.length >= BATCH_FILES || gatheredBytes >= BATCH_BYTES) submit();
    },
    room: () => {
      throwFailure();
      return waiting > MOST_WAITING ? inOrder.then(throwFailure) : null;
    },
    release: (bytes) => {
      if (used.has(bytes.buffer)) left.set(bytes.buffer, bytes);
      else release(bytes);
    },
    drain: async () => {
      submit();
      await inOrder;
      throwFailure();
    },
  };
};
