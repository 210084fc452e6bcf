import { release } from '../bytes.ts';
import type { Entry } from '../manifest/lines.ts';
import type { VerifyOptions, VerifyResult } from './backup.ts';
import { type EntryReader, entryReader } from './entry-reader.ts';
import { chosenFrames, wholeArchive } from './frame-feed.ts';
import { throwIfCancelled } from './refusals.ts';
import { provenEnd, type RestoreDeps } from './restore-run.ts';
import { SparseReader } from './sparse-reader.ts';
import { tally } from './tally.ts';
import { tarWindow } from './tar-window.ts';

/** A restore that writes nothing: the whole archive, or entries that begin in frames drawn by lot. */

/** @throws AegisError backups.bad_archive where the archive as a whole is not what was signed; backups.cancelled */
export const verifyArchive = async (
  { manifest, archive }: RestoreDeps,
  { sample = 1, random = Math.random, ...options }: VerifyOptions,
): Promise<VerifyResult> => {
  const { table } = archive;
  const { signal } = options;
  const whole = sample >= 1;
  const drawn = whole ? null : await draw({ manifest, archive }, sample, random);
  const feed = drawn
    ? chosenFrames(archive, { from: 0, until: table.count, wanted: (index) => drawn.fetched[index] === 1 }, signal)
    : wholeArchive(archive, signal);
  const count = tally({ options, entriesTotal: manifest.end.entries, archiveBytes: feed.archiveBytes });
  let entries = 0;
  let tarEnd = 0;
  try {
    const window = tarWindow(feed, release);
    const reader = entryReader(window);
    for await (const batch of manifest.batches())
      for (const entry of batch) {
        if (count.due()) {
          throwIfCancelled(signal);
          count.tell(entry.path);
        }
        tarEnd = entry.offset + entry.length;
        if (entry.length === 0 || (drawn && drawn.lots[table.at(entry.offset)] !== 1)) continue;
        try {
          const done = check(entry, reader, count.bytes);
          if (done) await done;
          entries += 1;
        } catch (error) {
          if (window.failure !== undefined) throw window.failure;
          count.failed(entry.path, error);
        }
      }
    if (whole) await provenEnd(window, tarEnd, manifest.end.tar_bytes);
    const { bytes, errorCount, errors } = count.result(whole);
    return { entries, bytes, archiveBytes: feed.archiveBytes(), errorCount, errors, archiveVerified: whole };
  } finally {
    await feed.close();
  }
};

/** By lot, one at least; `fetched` are the frames that the entries that begin in them reach into. */
const draw = async (
  { manifest, archive: { table } }: RestoreDeps,
  sample: number,
  random: () => number,
): Promise<{ lots: Uint8Array; fetched: Uint8Array }> => {
  const lots = Uint8Array.from({ length: table.count }, () => (random() < sample ? 1 : 0));
  if (!lots.includes(1)) lots[Math.min(Math.floor(random() * table.count), table.count - 1)] = 1;
  const fetched = Uint8Array.from(lots);
  for await (const batch of manifest.batches())
    for (const { offset, length } of batch)
      if (length > 0 && lots[table.at(offset)] === 1)
        fetched.fill(1, table.at(offset), table.at(offset + length - 1) + 1);
  return { lots, fetched };
};

const check = (entry: Entry, reader: EntryReader, onBytes: (count: number) => void): Promise<void> | undefined => {
  const now = reader.openNow(entry);
  if (!now)
    return (async () => {
      const open = await reader.open(entry);
      const { sparseSize } = open.header;
      const sparse = sparseSize === undefined ? null : new SparseReader(sparseSize, () => undefined);
      for await (const piece of reader.pieces(entry, open)) {
        sparse?.push(piece);
        onBytes(piece.length);
      }
      sparse?.end();
    })();
  const { header, data } = now;
  if (header.sparseSize !== undefined && data) {
    const sparse = new SparseReader(header.sparseSize, () => undefined);
    sparse.push(data);
    sparse.end();
  }
  onBytes(header.dataBytes);
  return undefined;
};
