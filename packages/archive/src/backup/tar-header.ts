import type { Xattr } from '@aegis/native/files';
import { ACL_ACCESS, ACL_DEFAULT, aclText } from './acl-text.ts';
import type { ManifestEntryKind } from './manifest/lines.ts';
import { nanos, type PaxRecords, paxRecords, paxTime, xattrKey } from './pax.ts';

/** The headers of a backup's tar: POSIX ustar, and before it a PAX header for what ustar has no room for. One form only: the same
 *  entry gives the same bytes. GNU tar, bsdtar and Python read all of it. */

export const BLOCK_BYTES = 512;
/** Two blocks of zeros end a tar. */
export const END_BYTES = 2 * BLOCK_BYTES;
export const paddingOf = (bytes: number): number => (BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES;

/** Of one entry, names and values: what is more is more than a file has, and would stand in memory whole, here and in every reader. */
export const MOST_XATTR_BYTES = 4 * 1024 * 1024;

export interface TarEntry {
  /** Relative to `/`, without a slash at either end; `.` for the root itself. */
  path: Buffer;
  kind: Exclude<ManifestEntryKind, 'socket'>;
  /** Permission bits with setuid, setgid and sticky. */
  mode: number;
  uid: number;
  gid: number;
  user: string;
  group: string;
  mtimeSec: number;
  mtimeNsec: number;
  /** Of the data area behind the header: a file's content, or map and segments of a sparse one. 0 for everything else. */
  dataBytes: number;
  /** The content's size with its holes, where the data area is sparse (GNU sparse format 1.0). */
  sparseSize?: number;
  /** Of a symlink; of a hard link the path of the first entry. */
  target?: Buffer;
  /** Of devices. */
  major: number;
  minor: number;
  xattrs: readonly Xattr[];
}

const TYPE_FLAGS: Readonly<Record<TarEntry['kind'], number>> = {
  file: 0x30,
  hardlink: 0x31,
  symlink: 0x32,
  character: 0x33,
  block: 0x34,
  directory: 0x35,
  fifo: 0x36,
};

/** ustar's fields: offset and length of names, offset and digits of numbers. */
const NAME = [0, 100] as const;
const MODE = [100, 7] as const;
const UID = [108, 7] as const;
const GID = [116, 7] as const;
const SIZE = [124, 11] as const;
const MTIME = [136, 11] as const;
const CHECKSUM = [148, 6] as const;
const TYPE = 156;
const LINK = [157, 100] as const;
const MAGIC = 257;
const USER = [265, 32] as const;
const GROUP = [297, 32] as const;
const MAJOR = [329, 7] as const;
const MINOR = [337, 7] as const;
const PREFIX = [345, 155] as const;

const MOST_OF_7 = 8 ** 7 - 1;
const MOST_OF_11 = 8 ** 11 - 1;
const SLASH = 0x2f;
/** Names of what stands in for a header, for readers that do not know better: one for all, they only get in each other's way. */
const PAX_NAME = Buffer.from('PaxHeader');
const SPARSE_NAME = Buffer.from('GNUSparseFile.0/');

export interface TarHeaders {
  /** All header blocks of an entry. A view that holds until the next call. */
  of(entry: TarEntry): Buffer;
}

export const tarHeaders = (): TarHeaders => {
  const records = paxRecords();
  let blocks = Buffer.alloc(8 * BLOCK_BYTES);
  return {
    of: (entry) => {
      records.clear();
      const name = entry.kind === 'directory' ? withSlash(entry.path) : entry.path;
      const shown = entry.sparseSize === undefined ? name : sparseName(name);
      const prefixBytes = prefixOf(shown);
      addRecords(records, entry, name, prefixBytes >= 0);
      const paxBytes = records.length === 0 ? 0 : BLOCK_BYTES + records.length + paddingOf(records.length);
      const total = paxBytes + BLOCK_BYTES;
      if (total > blocks.length) blocks = Buffer.alloc(Math.max(total, 2 * blocks.length));
      else blocks.fill(0, 0, total);
      if (paxBytes > 0) {
        putPaxHeader(blocks, records.length);
        records.copyTo(blocks, BLOCK_BYTES);
      }
      putHeader(blocks.subarray(paxBytes, total), entry, shown, prefixBytes);
      return blocks.subarray(0, total);
    },
  };
};

const withSlash = (path: Buffer): Buffer => {
  const name = Buffer.allocUnsafe(path.length + 1);
  path.copy(name);
  name[path.length] = SLASH;
  return name;
};

/** `dir/GNUSparseFile.0/name`, as GNU tar calls what only a reader of GNU.sparse.name can put together. */
const sparseName = (path: Buffer): Buffer => {
  const from = path.lastIndexOf(SLASH) + 1;
  return Buffer.concat([path.subarray(0, from), SPARSE_NAME, path.subarray(from)]);
};

/** How many bytes of a name go into the prefix field, the slash behind them left out; 0 for none, -1 when it does not fit. */
const prefixOf = (name: Buffer): number => {
  if (name.length <= NAME[1]) return 0;
  const slash = name.indexOf(SLASH, name.length - NAME[1] - 1);
  return slash > 0 && slash <= PREFIX[1] && slash < name.length - 1 ? slash : -1;
};

/** In one order, so that there is one form. */
const addRecords = (records: PaxRecords, entry: TarEntry, name: Buffer, nameFits: boolean): void => {
  if (entry.sparseSize === undefined && !nameFits) records.add('path', name);
  if (entry.target && entry.target.length > LINK[1]) records.add('linkpath', entry.target);
  if (entry.dataBytes > MOST_OF_11) records.add('size', String(entry.dataBytes));
  if (entry.uid > MOST_OF_7) records.add('uid', String(entry.uid));
  if (entry.gid > MOST_OF_7) records.add('gid', String(entry.gid));
  if (!fitsOwner(entry.user)) records.add('uname', entry.user);
  if (!fitsOwner(entry.group)) records.add('gname', entry.group);
  if (entry.mtimeNsec !== 0 || entry.mtimeSec < 0 || entry.mtimeSec > MOST_OF_11)
    records.add('mtime', paxTime(entry.mtimeSec, entry.mtimeNsec));
  if (entry.sparseSize !== undefined) {
    records.add('GNU.sparse.major', '1');
    records.add('GNU.sparse.minor', '0');
    records.add('GNU.sparse.name', name);
    records.add('GNU.sparse.realsize', String(entry.sparseSize));
  }
  if (entry.xattrs.length > 0) addXattrs(records, entry.xattrs);
};

const addXattrs = (records: PaxRecords, xattrs: readonly Xattr[]): void => {
  const left: Xattr[] = [];
  for (const one of [...xattrs].sort((a, b) => a.name.compare(b.name))) {
    const name = one.name.toString('latin1');
    const text = name === ACL_ACCESS || name === ACL_DEFAULT ? aclText(one.value) : null;
    if (text === null) left.push(one);
    else records.add(name === ACL_ACCESS ? 'SCHILY.acl.access' : 'SCHILY.acl.default', text);
  }
  for (const { name, value } of left) records.add(xattrKey(name), value);
};

/** ASCII only: what bytes beyond it mean in a ustar header is nobody's decision. */
const fitsOwner = (name: string): boolean => name.length < USER[1] && /^[\x20-\x7e]*$/.test(name);

const putHeader = (block: Buffer, entry: TarEntry, name: Buffer, prefixBytes: number): void => {
  if (prefixBytes > 0) {
    name.copy(block, PREFIX[0], 0, prefixBytes);
    name.copy(block, NAME[0], prefixBytes + 1);
  } else name.copy(block, NAME[0], 0, Math.min(name.length, NAME[1]));
  putOctal(block, MODE, entry.mode);
  putOctal(block, UID, entry.uid);
  putOctal(block, GID, entry.gid);
  putOctal(block, SIZE, entry.dataBytes);
  putOctal(block, MTIME, Math.max(entry.mtimeSec, 0));
  block[TYPE] = TYPE_FLAGS[entry.kind];
  entry.target?.copy(block, LINK[0], 0, Math.min(entry.target.length, LINK[1]));
  block.write('ustar\u000000', MAGIC, 'latin1');
  if (fitsOwner(entry.user)) block.write(entry.user, USER[0], 'latin1');
  if (fitsOwner(entry.group)) block.write(entry.group, GROUP[0], 'latin1');
  putOctal(block, MAJOR, entry.major);
  putOctal(block, MINOR, entry.minor);
  putChecksum(block);
};

const PAX_BLOCK = (() => {
  const block = Buffer.alloc(BLOCK_BYTES);
  PAX_NAME.copy(block, NAME[0]);
  block.write('0000644', MODE[0], 'latin1');
  for (const [at, digits] of [UID, GID, MTIME, MAJOR, MINOR]) block.write('0'.repeat(digits), at, 'latin1');
  block[TYPE] = 0x78;
  block.write('ustar\u000000', MAGIC, 'latin1');
  return block;
})();

const putPaxHeader = (blocks: Buffer, bytes: number): void => {
  PAX_BLOCK.copy(blocks, 0);
  putOctal(blocks, SIZE, bytes);
  putChecksum(blocks.subarray(0, BLOCK_BYTES));
};

/** What is too large stands in a PAX record, and the largest number here. */
const putOctal = (block: Buffer, [at, digits]: readonly [number, number], value: number): void => {
  let rest = digits > 7 ? Math.min(value, MOST_OF_11) : Math.min(value, MOST_OF_7);
  for (let position = at + digits - 1; position >= at; position--) {
    block[position] = 0x30 + (rest % 8);
    rest = Math.floor(rest / 8);
  }
};

/** The sum of all bytes, those of the checksum itself counted as spaces. Four bytes at a time, in two lanes of sixteen bits, which cannot overflow:
 *  a byte at a time takes longer than all the rest of a header. */
const putChecksum = (block: Buffer): void => {
  let lanes = 0;
  const words = new Uint32Array(block.buffer, block.byteOffset, BLOCK_BYTES / 4);
  for (let at = 0; at < words.length; at++) {
    const word = words[at] ?? 0;
    lanes += (word & 0x00ff_00ff) + ((word >>> 8) & 0x00ff_00ff);
  }
  putOctal(block, CHECKSUM, 8 * 0x20 + (lanes % 0x1_0000) + Math.floor(lanes / 0x1_0000));
  block[CHECKSUM[0] + CHECKSUM[1]] = 0;
  block[CHECKSUM[0] + CHECKSUM[1] + 1] = 0x20;
};

/** A time as a manifest has it: seconds, which are negative before 1970, and nanoseconds that count forwards all the same. */
export const manifestTime = (sec: number, nsec: number): string => `${sec}.${nanos(nsec)}`;
