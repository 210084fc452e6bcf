import { AegisError } from '@aegis/protocol/errors';
import type { Entry } from '../manifest/lines.ts';
import { entryReader } from './entry-reader.ts';
import { chosenFrames } from './frame-feed.ts';
import type { RestoreDeps } from './restore-run.ts';
import { SparseReader } from './sparse-reader.ts';
import { tarWindow } from './tar-window.ts';

/** The content of one file, holes as zeros. Fetches its frames and no others.
 *  @throws AegisError backups.unknown_object, backups.bad_archive */
export async function* readContent(deps: RestoreDeps, path: Buffer | string): AsyncGenerator<Buffer, void, undefined> {
  const { archive } = deps;
  const entry = await contentEntry(deps, cleaned(path));
  const { table } = archive;
  const until = table.at(entry.offset + entry.length - 1) + 1;
  const feed = chosenFrames(archive, { from: table.at(entry.offset), until, wanted: () => true });
  try {
    const reader = entryReader(tarWindow(feed));
    const open = await reader.open(entry);
    const pieces = reader.pieces(entry, open);
    if (open.header.sparseSize === undefined) yield* pieces;
    else yield* unfolded(pieces, open.header.sparseSize);
  } finally {
    await feed.close();
  }
}

async function* unfolded(pieces: AsyncIterable<Buffer>, size: number): AsyncGenerator<Buffer, void, undefined> {
  let parts: { offset: number; bytes: Buffer }[] = [];
  let at = 0;
  const reader = new SparseReader(size, (offset, bytes) => {
    parts.push({ offset, bytes });
  });
  const take = function* (): Generator<Buffer, void, undefined> {
    for (const { offset, bytes } of parts) {
      yield* zeros(offset - at);
      yield bytes;
      at = offset + bytes.length;
    }
    parts = [];
  };
  for await (const piece of pieces) {
    reader.push(piece);
    yield* take();
  }
  reader.end();
  yield* zeros(size - at);
}

const ZEROS = Buffer.alloc(1024 * 1024);
function* zeros(count: number): Generator<Buffer, void, undefined> {
  for (let left = count; left > 0; left -= ZEROS.length) yield ZEROS.subarray(0, Math.min(left, ZEROS.length));
}

const cleaned = (path: Buffer | string): Buffer => {
  const bytes = typeof path === 'string' ? Buffer.from(path, 'utf8') : path;
  let from = 0;
  while (bytes[from] === 0x2f) from += 1;
  return bytes.subarray(from);
};

/** That of the file itself; of a hard link, that of its first name. */
const contentEntry = async ({ manifest }: RestoreDeps, path: Buffer): Promise<Entry> => {
  const found = await find(manifest.batches(), path);
  const entry = found?.kind === 'hardlink' && found.target ? await find(manifest.batches(), found.target) : found;
  if (!entry)
    throw new AegisError(
      'backups.unknown_object',
      `The backup has no '${path.toString('utf8').slice(-200)}'. List what it has with 'aegis backups ls RUN'.`,
    );
  if (entry.kind !== 'file')
    throw new AegisError(
      'backups.unsupported',
      `'${path.toString('utf8').slice(-200)}' is no file but of kind ${entry.kind}: it has no content.`,
    );
  return entry;
};

const find = async (batches: AsyncIterable<Entry[]>, path: Buffer): Promise<Entry | undefined> => {
  for await (const batch of batches) {
    const found = batch.find((entry) => entry.path.equals(path));
    if (found) return found;
  }
  return undefined;
};
