import { createHash, hash } from 'node:crypto';
import type { AegisError } from '@aegis/protocol/errors';
import type { Entry } from '../manifest/lines.ts';
import { paddingOf, type TarEntry } from '../tar-header.ts';
import { differsFrom, FIRST_BYTES, headerBytesOf, headerReader } from './read-header.ts';
import { badArchive } from './refusals.ts';
import type { TarWindow } from './tar-window.ts';

/** Entries of the tar, each proven against the manifest's: header by its SHA-256 and field by field, content by its SHA-256, padding by being zero. */

export interface OpenEntry {
  header: TarEntry;
  /** Bytes of the tar. */
  dataFrom: number;
  /** The data area where it lay in memory whole: proven already, but by `peek`. */
  data: Buffer | null;
}

export interface EntryReader {
  /** Null when not all of the entry is in memory; then `open`.
   *  @throws AegisError backups.bad_archive */
  openNow(entry: Entry): OpenEntry | null;
  /** As `openNow`, but the content is not proven: whoever writes it compares its SHA-256 with the entry's before anything gets a name.
   *  @throws AegisError backups.bad_archive */
  peek(entry: Entry): OpenEntry | null;
  /** The header, and the data where it is at hand.
   *  @throws AegisError backups.bad_archive; and what the source throws */
  open(entry: Entry): Promise<OpenEntry>;
  /** The data area in pieces. Proven only when the iteration ends: until then nothing of it may be given a name.
   *  @throws AegisError backups.bad_archive; and what the source throws */
  pieces(entry: Entry, open: OpenEntry): AsyncGenerator<Buffer, void, undefined>;
}

export const entryReader = (window: TarWindow): EntryReader => {
  const headers = headerReader();

  const checkedHeader = (entry: Entry, bytes: Buffer): TarEntry => {
    if (hash('sha256', bytes, 'hex') !== entry.header_sha256)
      throw refusal(entry, 'header_sha256', 'its header has not the SHA-256 that the manifest says');
    const header = headers.read(bytes);
    if (!header) throw refusal(entry, 'header_form', 'its header is not as Aegis writes it');
    const field = differsFrom(entry, header);
    if (field) throw refusal(entry, 'header_field', `its header has another ${field} than the manifest`);
    const { dataBytes } = header;
    if (bytes.length + dataBytes + paddingOf(dataBytes) !== entry.length)
      throw refusal(entry, 'length', 'it has not the length that the manifest says');
    return header;
  };
  const headerLength = (entry: Entry, first: Buffer): number => {
    const length = headerBytesOf(first);
    if (length === null || length > entry.length)
      throw refusal(entry, 'header_form', 'its header is not as Aegis writes it');
    return length;
  };

  const inMemory = (entry: Entry): OpenEntry | null => {
    const bytes = window.view(entry.offset, entry.offset + entry.length);
    if (!bytes) return null;
    const from = headerLength(entry, bytes.subarray(0, FIRST_BYTES));
    const header = checkedHeader(entry, bytes.subarray(0, from));
    const dataEnd = from + header.dataBytes;
    refusePadding(entry, bytes.subarray(dataEnd));
    return { header, dataFrom: entry.offset + from, data: bytes.subarray(from, dataEnd) };
  };

  return {
    openNow: (entry) => {
      const now = inMemory(entry);
      if (now?.data && entry.kind === 'file') provenContent(entry, now.data);
      return now;
    },
    peek: inMemory,
    open: async (entry) => {
      const first = await window.gather(entry.offset, entry.offset + FIRST_BYTES);
      const length = headerLength(entry, first);
      const rest = await window.gather(entry.offset + FIRST_BYTES, entry.offset + length);
      const header = checkedHeader(entry, Buffer.concat([first, rest]));
      return { header, dataFrom: entry.offset + length, data: null };
    },
    pieces: async function* (entry, { header, dataFrom }) {
      const content = createHash('sha256');
      const dataEnd = dataFrom + header.dataBytes;
      for await (const piece of window.pieces(dataFrom, dataEnd)) {
        content.update(piece);
        yield piece;
      }
      if (entry.kind === 'file' && content.digest('hex') !== entry.sha256) throw wrongContent(entry);
      refusePadding(entry, await window.gather(dataEnd, entry.offset + entry.length));
    },
  };
};

/** @throws AegisError backups.bad_archive */
export const provenContent = (entry: Entry, data: Buffer): Buffer => {
  if (hash('sha256', data, 'hex') !== entry.sha256) throw wrongContent(entry);
  return data;
};

const refusePadding = (entry: Entry, padding: Buffer): void => {
  for (const byte of padding) if (byte !== 0) throw refusal(entry, 'padding', 'what fills its last block is not zero');
};
export const wrongContent = (entry: Entry) =>
  refusal(entry, 'sha256', 'its content has not the SHA-256 that the manifest says');
const refusal = (entry: Entry, reason: string, fault: string): AegisError =>
  badArchive(reason, `${fault} (entry at byte ${entry.offset} of the tar)`);
