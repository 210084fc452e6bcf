/** Many small files in one go, off the JavaScript thread: for restores, where making files is most of the work. */
import { loadAddon } from './binaries.ts';
import { SystemError } from './system-error.ts';

export type BatchFile = {
  /** Must stay open, and `data` as it is, until the batch is done. */
  dirFd: number;
  data: Buffer;
  /** Hex; nothing is written when `data` has another one. */
  sha256: string;
  mode: number;
  /** Null: the caller's. */
  owner: { uid: number; gid: number } | null;
  mtimeSec: number;
  mtimeNsec: number;
  /** Single names. The file is made under the temporary one, which must be free, and renamed when it is complete. */
  temporary: Buffer;
  name: Buffer;
  /** What happens to something that stands under the name: `keep` it, `replace` it, or replace it though none was expected. */
  existing: 'keep' | 'replace' | 'replace-unexpected';
};

/** `taken`: something stands under the name and was kept. `undressed`: owner, mode or time could not be set, so nothing was made.
 *  A SystemError: nothing was made. */
export type BatchOutcome = 'written' | 'wrong-digest' | 'taken' | 'undressed' | SystemError;

export type BatchAddon = {
  writeFiles(
    buffers: readonly Uint8Array[],
    numbers: Float64Array,
    texts: Buffer,
    digests: Buffer,
  ): Promise<Int32Array>;
};

/** Where each number stands in a file's record; addon/file_batch.cc reads the same. */
const FIELDS = 13;
const WRONG_DIGEST = -1;
const NAME_TAKEN = -2;
const NOT_DRESSED = -3;

/** One after the other, in their order, in libuv's thread pool; an outcome for each. */
export const writeFiles = async (
  files: readonly BatchFile[],
  addon: BatchAddon = loadAddon(),
): Promise<BatchOutcome[]> => {
  const memory = new Map<ArrayBufferLike, number>();
  const buffers: Uint8Array[] = [];
  const numbers = new Float64Array(files.length * FIELDS);
  const texts: Buffer[] = [];
  let textBytes = 0;
  const textAt = (text: Buffer): number => {
    const at = textBytes;
    texts.push(text, NUL);
    textBytes += text.length + 1;
    return at;
  };
  for (const [index, file] of files.entries()) {
    const { buffer, byteOffset, length } = file.data;
    let held = memory.get(buffer);
    if (held === undefined) {
      held = buffers.push(new Uint8Array(buffer)) - 1;
      memory.set(buffer, held);
    }
    numbers.set(
      [
        file.dirFd,
        held,
        byteOffset,
        length,
        file.mode,
        file.owner?.uid ?? -1,
        file.owner?.gid ?? -1,
        file.mtimeSec,
        file.mtimeNsec,
        file.existing === 'replace' ? 1 : 0,
        file.existing === 'replace-unexpected' ? 1 : 0,
        textAt(file.temporary),
        textAt(file.name),
      ],
      index * FIELDS,
    );
  }
  const digests = Buffer.from(files.map(({ sha256 }) => sha256).join(''), 'latin1');
  const results = await addon.writeFiles(buffers, numbers, Buffer.concat(texts), digests);
  return files.map(({ name }, index) => outcomeOf(results[index] ?? 0, name));
};

const NUL = Buffer.alloc(1);

const outcomeOf = (result: number, name: Buffer): BatchOutcome => {
  if (result === 0) return 'written';
  if (result === WRONG_DIGEST) return 'wrong-digest';
  if (result === NAME_TAKEN) return 'taken';
  if (result === NOT_DRESSED) return 'undressed';
  return new SystemError(result, 'write', name);
};
