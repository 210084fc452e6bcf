import { createHash, randomUUID } from 'node:crypto';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { decryptStream } from '../age/decrypt.ts';
import type { Identity } from '../age/keys.ts';
import type { ByteSource } from '../bytes.ts';
import { MOST_LINKED_INODES } from '../hard-links.ts';
import type { Entry, EntryError, ManifestEnd } from '../manifest/lines.ts';
import { readManifest } from '../manifest/read.ts';
import { unpackFrames } from '../zstd/read-frames.ts';
import { type FrameTable, frameTable } from './frame-table.ts';
import { PathOrder } from './path-order.ts';
import { badManifest, throwIfCancelled } from './refusals.ts';

/** A manifest that was fetched once, proven against its statement, and checked line by line; then read as often as anyone wants. Its bytes stay as
 *  they came, so an encrypted one is never in plain on a disk. */

export interface ManifestStore {
  readonly header: Readonly<Record<string, unknown>>;
  readonly end: ManifestEnd;
  readonly table: FrameTable;
  readonly encrypted: boolean;
  /** Paths, as latin1, of first entries that hard links name. */
  readonly linkTargets: ReadonlySet<string>;
  /** Paths, as latin1, of directories whose entries do not all stand together: something below comes again later. */
  readonly scattered: ReadonlySet<string>;
  /** The entries are in the order of their paths, component by component. */
  readonly sorted: boolean;
  /** Entries, many at a time. */
  batches(): AsyncGenerator<Entry[], void, undefined>;
  errors(): AsyncGenerator<EntryError, void, undefined>;
  close(): Promise<void>;
}

export interface StoreOptions {
  source: ByteSource;
  stated: { bytes: number; sha256: string };
  /** Of the archive, as it lies there: its frames are no longer. */
  archiveBytes: number;
  identities: readonly Identity[];
  spoolDir?: string | undefined;
  signal?: AbortSignal | undefined;
}

const IN_MEMORY = 16 * 1024 * 1024;
const READ_BYTES = 1024 * 1024;
const AGE_MAGIC = Buffer.from('age-encryption.org/');

/** @throws AegisError backups.bad_manifest, backups.wrong_identity, backups.bad_archive (encryption), backups.cancelled */
export const storeManifest = async (options: StoreOptions): Promise<ManifestStore> => {
  const kept = await keep(options);
  try {
    return await examine(kept, options);
  } catch (error) {
    await kept.close();
    throw error;
  }
};

interface Kept {
  encrypted: boolean;
  read(): AsyncGenerator<Buffer, void, undefined>;
  close(): Promise<void>;
}

const keep = async ({ source, stated, spoolDir = tmpdir(), signal }: StoreOptions): Promise<Kept> => {
  if (source.size !== stated.bytes)
    throw badManifest('size', `it has ${source.size} bytes, and the signed statement says ${stated.bytes}`);
  const hash = createHash('sha256');
  const memory: Buffer[] = [];
  const file = source.size > IN_MEMORY ? await namelessFile(spoolDir) : null;
  try {
    let at = 0;
    for await (const piece of source.read(0, source.size)) {
      throwIfCancelled(signal);
      hash.update(piece);
      if (file) await file.write(piece, 0, piece.length, at);
      else memory.push(piece);
      at += piece.length;
      if (at > stated.bytes) break;
    }
    if (at !== stated.bytes || hash.digest('hex') !== stated.sha256)
      throw badManifest('sha256', 'its SHA-256 is not the one that the node signed');
    const start = file ? await readAt(file, 0, AGE_MAGIC.length) : Buffer.concat(memory).subarray(0, AGE_MAGIC.length);
    return {
      encrypted: start.equals(AGE_MAGIC),
      read: async function* () {
        if (!file) yield* memory;
        else for (let from = 0; from < stated.bytes; from += READ_BYTES) yield await readAt(file, from, READ_BYTES);
      },
      close: async () => {
        await file?.close();
      },
    };
  } catch (error) {
    await file?.close();
    throw error;
  }
};

const namelessFile = async (folder: string): Promise<FileHandle> => {
  const path = join(folder, `aegis-manifest-${randomUUID()}`);
  const file = await open(path, 'wx+', 0o600);
  await unlink(path);
  return file;
};

const readAt = async (file: FileHandle, from: number, most: number): Promise<Buffer> => {
  const { buffer, bytesRead } = await file.read(Buffer.allocUnsafeSlow(most), 0, most, from);
  return buffer.subarray(0, bytesRead);
};

const examine = async (kept: Kept, { identities, archiveBytes, signal }: StoreOptions): Promise<ManifestStore> => {
  const mine = kept.encrypted ? identities : null;
  const table = frameTable();
  const linkTargets = new Set<string>();
  const order = new PathOrder();
  let header: Readonly<Record<string, unknown>> | null = null;
  let end: ManifestEnd | null = null;
  let count = 0;
  for await (const line of readManifest(kept.read(), { identities: mine })) {
    if ((++count & 1023) === 0) throwIfCancelled(signal);
    if (line.type === 'entry') {
      order.accept(line.path);
      if (line.kind === 'hardlink' && line.target) linkTargets.add(line.target.toString('latin1'));
      if (linkTargets.size > MOST_LINKED_INODES)
        throw badManifest('limit', `more than ${MOST_LINKED_INODES} of its entries are named by hard links`);
    } else if (line.type === 'frames') {
      for (const [tar, packed] of line.frames) table.add(tar, packed);
      // At once, and not where the manifest ends: millions stand in a small one, and all of them are remembered.
      if (table.packedBytes > archiveBytes)
        throw badManifest('limit', `its frames are longer than the archive of ${archiveBytes} bytes`);
    } else if (line.type === 'backup') header = line.header;
    else if (line.type === 'end') end = line;
  }
  if (!header || !end) throw badManifest('truncated', 'it has no end');
  return {
    header,
    end,
    table,
    encrypted: kept.encrypted,
    linkTargets,
    scattered: order.scattered,
    sorted: order.sorted,
    batches: () => entryBatches(kept, mine),
    errors: async function* () {
      for await (const line of readManifest(kept.read(), { identities: mine })) if (line.type === 'error') yield line;
    },
    close: kept.close,
  };
};

const FRAME_BYTES = { packedBytes: 8 * 1024 * 1024, contentBytes: 8 * 1024 * 1024 };
const ENTRY = '{"type":"entry"';

/** Every line was checked when the store was made, and the bytes are still the same: parsing is all that is left. */
async function* entryBatches(
  kept: Kept,
  identities: readonly Identity[] | null,
): AsyncGenerator<Entry[], void, undefined> {
  const packed = identities === null ? kept.read() : decryptStream(kept.read(), identities);
  let held: Buffer = Buffer.alloc(0);
  for await (const piece of unpackFrames(packed, FRAME_BYTES, (reason, fault) => badManifest(reason, fault))) {
    const end = piece.lastIndexOf(0x0a) + 1;
    if (end === 0) {
      held = Buffer.concat([held, piece]);
      continue;
    }
    const text = `${Buffer.concat([held, piece.subarray(0, end - 1)]).toString('utf8')}`;
    held = Buffer.from(piece.subarray(end));
    const batch: Entry[] = [];
    for (const line of text.split('\n')) if (line.startsWith(ENTRY)) batch.push(entryOf(JSON.parse(line)));
    if (batch.length > 0) yield batch;
  }
}

/** As JSON has it. */
type CheckedLine = Omit<Entry, 'path' | 'target'> & {
  type?: string;
  path?: string | Buffer;
  path_b64?: string;
  target?: string | Buffer;
  target_b64?: string;
};

const entryOf = (line: CheckedLine): Entry => {
  line.path = bytesOf(line.path, line.path_b64);
  if (line.target !== undefined || line.target_b64 !== undefined) line.target = bytesOf(line.target, line.target_b64);
  delete line.type;
  delete line.path_b64;
  delete line.target_b64;
  return line as Entry;
};

const bytesOf = (text: string | Buffer | undefined, base64: string | undefined): Buffer =>
  typeof text === 'string' ? Buffer.from(text, 'utf8') : Buffer.from(base64 ?? '', 'base64');
