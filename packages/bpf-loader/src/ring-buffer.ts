/** Reading a BPF ring buffer or a perf event array, batch by batch, as fast as the reader asks: a slow one holds back only its own
 *  ring, in which the program's reservations then fail (a ring buffer's program counts those itself; a perf event array's are in
 *  `lost`). */
import { checkInteger } from './arguments.ts';
import { invalid, typed } from './errors.ts';
import type { RingHandle } from './loader.ts';
import { addon } from './loader.ts';
import type { BpfMap } from './maps.ts';

export interface RecordBatch {
  records: Buffer[];
  /** Records that a perf event array had no room for, since the batch before. Always 0 on a ring buffer. */
  lost: number;
}

export interface RecordStream extends AsyncIterable<RecordBatch>, Disposable {
  /** What is there now; an empty batch when nothing is. */
  take(): RecordBatch;
  /** Ends the iteration and releases the ring. */
  stop(): void;
}

export interface RecordStreamOptions {
  /** Bounds of one batch, default 1024 records and 1 MiB (each exceeded by at most one record; on perf event arrays by one
   *  CPU's buffer). */
  maxRecords?: number;
  maxBytes?: number;
  /** Of a perf event array: pages for each CPU, a power of two, default 64. */
  perfPages?: number;
}

/** One reader to a map: two would each get a part. Opening it does not need the program attached. */
export const readRecords = (map: BpfMap, options: RecordStreamOptions = {}): RecordStream => {
  const maxRecords = checkInteger(options.maxRecords ?? 1024, 1, 1_000_000, 'maxRecords');
  const maxBytes = checkInteger(options.maxBytes ?? 1024 * 1024, 1, 256 * 1024 * 1024, 'maxBytes');
  const pages = checkInteger(options.perfPages ?? 64, 1, 65_536, 'perfPages');
  if ((pages & (pages - 1)) !== 0) throw invalid('perfPages must be a power of two.', { perfPages: pages });
  const { type } = map.info();
  if (type !== 'ringbuf' && type !== 'perf_event_array')
    throw invalid(`Map ${map.name} is of type ${type}: records are read from a ringbuf or perf_event_array.`);
  return stream(
    typed(() => addon().openRing(map.handle, type === 'ringbuf' ? 0 : pages)),
    maxRecords,
    maxBytes,
  );
};

const stream = (ring: RingHandle, maxRecords: number, maxBytes: number): RecordStream => {
  let stopped = false;
  let waiting: (() => void) | null = null;
  const take = (): RecordBatch => {
    const { bytes, lengths, lost } = typed(() => addon().takeRing(ring, maxRecords, maxBytes));
    const records: Buffer[] = [];
    let start = 0;
    for (const length of lengths) {
      records.push(bytes.subarray(start, start + length));
      start += length;
    }
    return { records, lost };
  };
  const readable = (): Promise<void> =>
    new Promise((resolve, reject) => {
      waiting = resolve;
      try {
        typed(() => addon().awaitRing(ring, resolve));
      } catch (error) {
        reject(error);
      }
    });
  const stop = (): void => {
    if (stopped) return;
    stopped = true;
    addon().closeRing(ring);
    waiting?.();
  };
  const batches = async function* (): AsyncGenerator<RecordBatch, void, undefined> {
    try {
      while (!stopped) {
        const batch = take();
        if (batch.records.length > 0 || batch.lost > 0) yield batch;
        else await readable();
      }
    } finally {
      stop();
    }
  };
  return { take, stop, [Symbol.asyncIterator]: batches, [Symbol.dispose]: stop };
};
