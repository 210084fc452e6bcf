import type { Xattr } from '@aegis/native/files';
import { ACL_ACCESS, ACL_DEFAULT } from '../acl-text.ts';
import { type Entry, MAX_PATH_BYTES } from '../manifest/lines.ts';
import { BLOCK_BYTES, manifestTime, paddingOf, type TarEntry, tarHeaders } from '../tar-header.ts';
import { aclBinary } from './acl-binary.ts';

/** The headers of one entry of our own tars, read back. Nothing else is taken: what was read is written again by `tarHeaders`, and must give the same
 *  bytes. So this parser need not know what else there could be. */

/** PAX header, records, ustar header: two paths and the most xattrs that the writer stores, with room. */
export const MAX_HEADER_BYTES = 8 * 1024 * 1024;
/** Enough to know how long the headers are. */
export const FIRST_BYTES = BLOCK_BYTES;

const PAX = 0x78;
const KINDS: Readonly<Record<number, TarEntry['kind']>> = {
  48: 'file',
  49: 'hardlink',
  50: 'symlink',
  51: 'character',
  52: 'block',
  53: 'directory',
  54: 'fifo',
};
const SLASH = 0x2f;

/** How many bytes the headers have of which `block` is the first; null for what cannot be. */
export const headerBytesOf = (block: Buffer): number | null => {
  if (block.length < BLOCK_BYTES) return null;
  if (block[156] !== PAX) return BLOCK_BYTES;
  const records = octal(block, 124, 11);
  const total = 2 * BLOCK_BYTES + records + paddingOf(records);
  return records > 0 && total <= MAX_HEADER_BYTES ? total : null;
};

export interface HeaderReader {
  /** Null for what the writer would not have written. Shares no memory with `bytes`. */
  read(bytes: Buffer): TarEntry | null;
}

export const headerReader = (): HeaderReader => {
  const headers = tarHeaders();
  return {
    read: (bytes) => {
      const paxed = bytes[156] === PAX;
      const block = bytes.subarray(bytes.length - BLOCK_BYTES);
      const records = paxed ? readRecords(bytes.subarray(BLOCK_BYTES, BLOCK_BYTES + octal(bytes, 124, 11))) : NONE;
      const entry = records && entryOf(block, records);
      if (!entry || entry.path.length > MAX_PATH_BYTES) return null;
      return headers.of(entry).equals(bytes) ? entry : null;
    },
  };
};

type Records = ReadonlyMap<string, Buffer>;
const NONE: Records = new Map();

const readRecords = (bytes: Buffer): Records | null => {
  const records = new Map<string, Buffer>();
  for (let at = 0; at < bytes.length; ) {
    const blank = bytes.indexOf(0x20, at);
    const length = blank > at && blank - at < 9 ? Number(bytes.toString('latin1', at, blank)) : 0;
    const equals = bytes.indexOf(0x3d, blank);
    const end = at + length;
    if (!(length > blank - at) || end > bytes.length || equals < 0 || equals >= end || bytes[end - 1] !== 0x0a)
      return null;
    records.set(bytes.toString('latin1', blank + 1, equals), Buffer.from(bytes.subarray(equals + 1, end - 1)));
    at = end;
  }
  return records;
};

const entryOf = (block: Buffer, records: Records): TarEntry | null => {
  const kind = KINDS[block[156] ?? 0];
  if (!kind) return null;
  const text = (key: string): string | undefined => records.get(key)?.toString('utf8');
  const number = (key: string, at: number, digits: number): number => {
    const record = text(key);
    return record === undefined ? octal(block, at, digits) : Number(record);
  };
  const [mtimeSec, mtimeNsec] = timeOf(text('mtime') ?? String(octal(block, 136, 11)));
  const path = records.get('GNU.sparse.name') ?? records.get('path') ?? ustarName(block);
  const realSize = text('GNU.sparse.realsize');
  const xattrs = xattrsOf(records);
  if (!xattrs) return null;
  const entry: TarEntry = {
    path: kind === 'directory' && path[path.length - 1] === SLASH ? path.subarray(0, -1) : path,
    kind,
    mode: octal(block, 100, 7),
    uid: number('uid', 108, 7),
    gid: number('gid', 116, 7),
    user: text('uname') ?? field(block, 265, 32).toString('latin1'),
    group: text('gname') ?? field(block, 297, 32).toString('latin1'),
    mtimeSec,
    mtimeNsec,
    dataBytes: number('size', 124, 11),
    major: octal(block, 329, 7),
    minor: octal(block, 337, 7),
    xattrs,
  };
  if (realSize !== undefined) entry.sparseSize = Number(realSize);
  if (kind === 'symlink' || kind === 'hardlink') entry.target = records.get('linkpath') ?? field(block, 157, 100);
  const numbers = [entry.uid, entry.gid, entry.dataBytes, entry.sparseSize ?? 0, mtimeSec, mtimeNsec];
  return numbers.every(Number.isSafeInteger) && entry.dataBytes >= 0 ? entry : null;
};

const xattrsOf = (records: Records): Xattr[] | null => {
  const xattrs: Xattr[] = [];
  for (const [key, value] of records) {
    if (key.startsWith('SCHILY.xattr.')) {
      const name = key.slice('SCHILY.xattr.'.length).replaceAll('%3D', '=').replaceAll('%25', '%');
      xattrs.push({ name: Buffer.from(name, 'latin1'), value });
    } else if (key === 'SCHILY.acl.access' || key === 'SCHILY.acl.default') {
      const binary = aclBinary(value.toString('latin1'));
      if (!binary) return null;
      xattrs.push({ name: Buffer.from(key === 'SCHILY.acl.access' ? ACL_ACCESS : ACL_DEFAULT), value: binary });
    }
  }
  return xattrs;
};

/** `paxTime` the other way round. */
const timeOf = (text: string): [sec: number, nsec: number] => {
  const [, minus, whole = '', fraction = ''] = /^(-?)(\d+)(?:\.(\d{1,9}))?$/.exec(text) ?? [];
  if (whole === '') return [Number.NaN, 0];
  const nsec = Number(fraction.padEnd(9, '0'));
  if (!minus) return [Number(whole), nsec];
  return nsec === 0 ? [-Number(whole), 0] : [-Number(whole) - 1, 1e9 - nsec];
};

const ustarName = (block: Buffer): Buffer => {
  const prefix = field(block, 345, 155);
  const name = field(block, 0, 100);
  return prefix.length === 0 ? name : Buffer.concat([prefix, Buffer.from('/'), name]);
};

/** Up to the first NUL; a copy. */
const field = (block: Buffer, at: number, length: number): Buffer => {
  const end = block.indexOf(0, at);
  return Buffer.from(block.subarray(at, end < 0 || end > at + length ? at + length : end));
};

/** -1 for what is no number. */
const octal = (block: Buffer, at: number, digits: number): number => {
  let value = 0;
  for (let index = at; index < at + digits; index++) {
    const digit = (block[index] ?? 0) - 0x30;
    if (digit < 0 || digit > 7) return -1;
    value = value * 8 + digit;
  }
  return value;
};

/** Null where the header says just what the manifest's entry does, else which field differs. */
export const differsFrom = (entry: Entry, header: TarEntry): string | null => {
  const sparse = header.sparseSize !== undefined;
  const wrong = (
    [
      ['path', !header.path.equals(entry.path)],
      ['kind', header.kind !== entry.kind],
      ['mode', header.mode !== entry.mode],
      ['owner', header.uid !== entry.uid || header.gid !== entry.gid],
      ['user', header.user !== entry.user || header.group !== entry.group],
      ['mtime', manifestTime(header.mtimeSec, header.mtimeNsec) !== entry.mtime],
      ['sparse', sparse !== (entry.sparse ?? false)],
      ['size', (header.sparseSize ?? header.dataBytes) !== entry.size],
      ['target', !(header.target ?? EMPTY).equals(entry.target ?? EMPTY)],
    ] as const
  ).find(([, is]) => is);
  return wrong ? wrong[0] : null;
};
const EMPTY = Buffer.alloc(0);
