import { isUtf8 } from 'node:buffer';
import { entryTextWith } from './line-text.ts';
import { ENTRY_KINDS, ENTRY_STATUSES, type Entry, MAX_PATH_BYTES } from './lines.ts';

/** An entry from its line. By hand: manifests have a line for each file of a machine, and a schema's pass over them takes as long as the rest of
 *  reading. What follows from the comparison with the entry's one text is not checked again: that text fields are texts, that none is unknown,
 *  missing or repeated. `EntryLine` says the same as a schema, and the tests hold the two together. */

type EntryLineRead = { type: 'entry' } & Entry;
export type RefuseLine = (fault: string) => Error;

const KINDS: ReadonlySet<unknown> = new Set(ENTRY_KINDS);
const STATUSES: ReadonlySet<unknown> = new Set([undefined, ...ENTRY_STATUSES]);
const SHA256 = /^[0-9a-f]{64}$/;
const MTIME = /^(?:0|-?[1-9]\d{0,18})\.\d{9}$/;
const MAX_NAME = 1024;

/** @throws what `refuse` makes */
export const readEntry = (
  value: Readonly<Record<string, unknown>>,
  text: string,
  refuse: RefuseLine,
): EntryLineRead => {
  const { path, path_b64, target, target_b64, sha256, sparse, status } = value;
  const pathPart = namePart('path', path, path_b64);
  const targetPart = target === undefined && target_b64 === undefined ? '' : namePart('target', target, target_b64);
  if (pathPart === null || targetPart === null) throw refuse('has no path');
  const entry = {
    type: 'entry',
    path: bytesOf(path, path_b64, refuse),
    kind: value.kind,
    mode: value.mode,
    uid: value.uid,
    gid: value.gid,
    user: value.user,
    group: value.group,
    size: value.size,
    mtime: value.mtime,
    ...(sha256 === undefined ? null : { sha256 }),
    header_sha256: value.header_sha256,
    ...(targetPart === '' ? null : { target: bytesOf(target, target_b64, refuse) }),
    ...(sparse === undefined ? null : { sparse }),
    ...(status === undefined ? null : { status }),
    offset: value.offset,
    length: value.length,
  } as EntryLineRead; // as the checks below will have shown
  refuseField(entry, refuse);
  refuseOdd(entry, refuse);
  if (entryTextWith(entry, pathPart, targetPart) !== text) throw refuse('is not in its one form');
  return entry;
};

/** Null where there is no name, or no text of one. */
const namePart = (key: string, text: unknown, base64: unknown): string | null => {
  if (typeof text === 'string') return text.isWellFormed() ? `"${key}":${JSON.stringify(text)}` : null;
  return typeof base64 === 'string' ? `"${key}_b64":${JSON.stringify(base64)}` : null;
};

/** Of a name; its text, where it has one, was seen to be well-formed. Base64 has one form, and is for what is not UTF-8. */
export const bytesOf = (text: unknown, base64: unknown, refuse: RefuseLine): Buffer => {
  const bytes = typeof text === 'string' ? Buffer.from(text, 'utf8') : Buffer.from(String(base64), 'base64');
  if (bytes.length === 0 || bytes.length > MAX_PATH_BYTES || bytes.includes(0))
    throw refuse('has a path that no file has');
  if (typeof text !== 'string' && (isUtf8(bytes) || bytes.toString('base64') !== base64))
    throw refuse('is not in its one form');
  return bytes;
};

const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;
const isBlocks = (value: number): boolean => isCount(value) && value % 512 === 0;
const isName = (value: string): boolean =>
  typeof value === 'string' && value.length <= MAX_NAME && value.isWellFormed();

const refuseField = (entry: Entry, refuse: RefuseLine): void => {
  const wrong = (field: string) => refuse(`has a wrong ${field}`);
  if (!KINDS.has(entry.kind)) throw wrong('kind');
  if (!isCount(entry.mode) || entry.mode > 0o7777) throw wrong('mode');
  if (!isCount(entry.uid) || entry.uid > 0xffff_ffff) throw wrong('uid');
  if (!isCount(entry.gid) || entry.gid > 0xffff_ffff) throw wrong('gid');
  if (!isName(entry.user)) throw wrong('user');
  if (!isName(entry.group)) throw wrong('group');
  if (!isCount(entry.size)) throw wrong('size');
  if (!MTIME.test(entry.mtime)) throw wrong('mtime');
  if (entry.sha256 !== undefined && !SHA256.test(entry.sha256)) throw wrong('sha256');
  if (!SHA256.test(entry.header_sha256)) throw wrong('header_sha256');
  if (entry.sparse !== undefined && entry.sparse !== true) throw wrong('sparse');
  if (!STATUSES.has(entry.status)) throw wrong('status');
  if (!isBlocks(entry.offset)) throw wrong('offset');
  if (!isBlocks(entry.length)) throw wrong('length');
};

/** A component that is empty, `.` or `..`; so has a path with a slash at either end. */
const STRAYS = /(?:^|\/)\.{0,2}(?:\/|$)/;
const isBelowRoot = (path: Buffer): boolean => {
  const text = path.toString('latin1');
  return text === '.' || !STRAYS.test(text);
};

/** What does not go together. */
const refuseOdd = ({ kind, path, target, sha256, sparse, length }: Entry, refuse: RefuseLine): void => {
  if (!isBelowRoot(path)) throw refuse('has a path that leads elsewhere');
  if ((target !== undefined) !== (kind === 'symlink' || kind === 'hardlink')) throw refuse('has a wrong target');
  if (kind === 'hardlink' && target && !isBelowRoot(target)) throw refuse('has a target that leads elsewhere');
  if ((sha256 !== undefined) !== (kind === 'file')) throw refuse('has a wrong sha256');
  if (sparse && kind !== 'file') throw refuse('has a wrong sparse');
  if ((length === 0) !== (kind === 'socket')) throw refuse('has a wrong length');
};
