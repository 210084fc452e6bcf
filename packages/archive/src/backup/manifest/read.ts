import { isUtf8 } from 'node:buffer';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { decryptStream } from '../age/decrypt.ts';
import type { Identity } from '../age/keys.ts';
import { unpackFrames } from '../zstd/read-frames.ts';
import { backupText, endText, entryText, errorText, framesText } from './line-text.ts';
import { type Entry, type EntryError, Line, MAX_PATH_BYTES, type ManifestLine } from './lines.ts';
import { manifestOrder } from './order.ts';

/** A manifest, line by line, each checked before it is given out. Whoever needs it whole, and `end` is the last line, must go on to the end: only then
 *  it is sure that nothing is missing. */

export interface ManifestLimits {
  /** Of one line: two paths of 256 KiB, escaped. */
  lineBytes: number;
  entries: number;
  errors: number;
  /** Of all text. */
  textBytes: number;
}
export const MANIFEST_LIMITS: ManifestLimits = {
  lineBytes: 4 * 1024 * 1024,
  entries: 1_000_000_000,
  errors: 100_000_000,
  textBytes: 1024 ** 4,
};
/** A piece of the writer's and one line. */
const FRAME_LIMITS = { packedBytes: 8 * 1024 * 1024, contentBytes: 8 * 1024 * 1024 };

export interface ReadManifestOptions {
  /** Null: the manifest is not encrypted. */
  identities: readonly Identity[] | null;
  limits?: Partial<ManifestLimits>;
}

/** @throws AegisError backups.bad_manifest, and for an encrypted one backups.wrong_identity and backups.bad_archive */
export async function* readManifest(
  bytes: AsyncIterable<Buffer>,
  { identities, limits: given }: ReadManifestOptions,
): AsyncGenerator<ManifestLine, void, undefined> {
  const limits = { ...MANIFEST_LIMITS, ...given };
  const order = manifestOrder(limits, identities === null, badManifest);
  const packed = identities === null ? bytes : decryptStream(bytes, identities);
  let number = 0;
  for await (const text of splitLines(unpackFrames(packed, FRAME_LIMITS, refuseFrame), limits)) {
    number += 1;
    const line = parseLine(text, number);
    order.accept(line, number);
    yield line;
  }
  order.finish();
}

async function* splitLines(
  pieces: AsyncIterable<Buffer>,
  limits: ManifestLimits,
): AsyncGenerator<Buffer, void, undefined> {
  let held: Buffer = Buffer.alloc(0);
  let total = 0;
  for await (const piece of pieces) {
    total += piece.length;
    if (total > limits.textBytes) throw badManifest('limit', `it has more than ${limits.textBytes} bytes of text`);
    const text = held.length === 0 ? piece : Buffer.concat([held, piece]);
    let from = 0;
    for (let feed = text.indexOf(0x0a); feed !== -1; feed = text.indexOf(0x0a, from)) {
      if (feed - from > limits.lineBytes) throw tooLong(limits);
      yield text.subarray(from, feed);
      from = feed + 1;
    }
    held = text.subarray(from);
    if (held.length > limits.lineBytes) throw tooLong(limits);
  }
  if (held.length > 0) throw badManifest('truncated', 'it ends within a line');
}

const parseLine = (bytes: Buffer, number: number): ManifestLine => {
  const refuse = (fault: string) => badManifest('line', `line ${number} ${fault}`, { line: number });
  if (!isUtf8(bytes)) throw refuse('is not UTF-8');
  const text = bytes.toString('utf8');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw refuse('is not JSON');
  }
  const parsed = z.safeParse(Line, value);
  if (!parsed.success) throw refuse(`has a wrong ${parsed.error.issues[0]?.path.join('.') || 'type'}`);
  const { line, canonical } = checked(parsed.data, refuse);
  if (canonical !== text) throw refuse('is not in its one form');
  return line;
};

type Refuse = (fault: string) => Error;

const checked = (line: Line, refuse: Refuse): { line: ManifestLine; canonical: string } => {
  if (line.type === 'backup') {
    const { type, format: _fixed, ...header } = line;
    return { line: { type, header }, canonical: headerText(header, refuse) };
  }
  if (line.type === 'frames') return { line, canonical: framesText(line.frames) };
  if (line.type === 'end') return { line, canonical: endText(line) };
  if (line.type === 'error') {
    const { type, path, path_b64, code, message } = line;
    const error: EntryError = { path: bytesOf(path, path_b64, refuse), code, message };
    return { line: { type, ...error }, canonical: errorText(error) };
  }
  const { type, path, path_b64, target, target_b64, ...rest } = line;
  const linked = target !== undefined || target_b64 !== undefined;
  const entry = {
    ...rest,
    path: bytesOf(path, path_b64, refuse),
    ...(linked ? { target: bytesOf(target, target_b64, refuse) } : {}),
  } as Entry; // zod allows undefined for what is optional, and JSON has none
  refuseOdd(entry, refuse);
  return { line: { type, ...entry }, canonical: entryText(entry) };
};

const headerText = (header: Readonly<Record<string, unknown>>, refuse: Refuse): string => {
  try {
    return backupText(header);
  } catch {
    throw refuse('is nested too deep'); // JSON.parse goes deeper than JSON.stringify
  }
};

/** What its one form refuses besides: base64 of what is UTF-8, and both names at once. */
const bytesOf = (text: string | undefined, base64: string | undefined, refuse: Refuse): Buffer => {
  const bytes = text !== undefined ? Buffer.from(text, 'utf8') : Buffer.from(base64 ?? '', 'base64');
  if (bytes.length === 0 || bytes.length > MAX_PATH_BYTES || bytes.includes(0))
    throw refuse('has a path that no file has');
  return bytes;
};

const isBelowRoot = (path: Buffer): boolean => {
  const text = path.toString('latin1');
  return text === '.' || text.split('/').every((part) => part !== '' && part !== '.' && part !== '..');
};

const refuseOdd = ({ kind, path, target, sha256, sparse, length }: Entry, refuse: Refuse): void => {
  if (!isBelowRoot(path)) throw refuse('has a path that leads elsewhere');
  if ((target !== undefined) !== (kind === 'symlink' || kind === 'hardlink')) throw refuse('has a wrong target');
  if (kind === 'hardlink' && target && !isBelowRoot(target)) throw refuse('has a target that leads elsewhere');
  if ((sha256 !== undefined) !== (kind === 'file')) throw refuse('has a wrong sha256');
  if (sparse && kind !== 'file') throw refuse('has a wrong sparse');
  if ((length === 0) !== (kind === 'socket')) throw refuse('has a wrong length');
};

const badManifest = (reason: string, fault: string, details: Record<string, unknown> = {}): AegisError =>
  new AegisError('backups.bad_manifest', `The backup's manifest is refused: ${fault}.`, {
    details: { reason, ...details },
  });
const refuseFrame = (reason: string, fault: string) => badManifest(reason, fault);
const tooLong = (limits: ManifestLimits) => badManifest('limit', `a line has more than ${limits.lineBytes} bytes`);
