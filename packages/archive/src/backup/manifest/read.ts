import { isUtf8 } from 'node:buffer';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { decryptStream } from '../age/decrypt.ts';
import type { Identity } from '../age/keys.ts';
import { unpackFrames } from '../zstd/read-frames.ts';
import { backupText, endText, errorText, framesText } from './line-text.ts';
import { type EntryError, Line, type ManifestLine } from './lines.ts';
import { manifestOrder } from './order.ts';
import { bytesOf, type RefuseLine, readEntry } from './read-entry.ts';

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
  if (isEntry(value)) return readEntry(value, text, refuse);
  const parsed = z.safeParse(Line, value);
  if (!parsed.success) throw refuse(`has a wrong ${parsed.error.issues[0]?.path.join('.') || 'type'}`);
  const { line, canonical } = checked(parsed.data, refuse);
  if (canonical !== text) throw refuse('is not in its one form');
  return line;
};

const isEntry = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && 'type' in value && value.type === 'entry';

const checked = (line: Line, refuse: RefuseLine): { line: ManifestLine; canonical: string } => {
  if (line.type === 'backup') {
    const { type, format: _fixed, ...header } = line;
    return { line: { type, header }, canonical: headerText(header, refuse) };
  }
  if (line.type === 'frames') return { line, canonical: framesText(line.frames) };
  if (line.type === 'end') return { line, canonical: endText(line) };
  const { type, path, path_b64, code, message } = line;
  const error: EntryError = { path: bytesOf(path, path_b64, refuse), code, message };
  return { line: { type, ...error }, canonical: errorText(error) };
};

const headerText = (header: Readonly<Record<string, unknown>>, refuse: RefuseLine): string => {
  try {
    return backupText(header);
  } catch {
    throw refuse('is nested too deep'); // JSON.parse goes deeper than JSON.stringify
  }
};

const badManifest = (reason: string, fault: string, details: Record<string, unknown> = {}): AegisError =>
  new AegisError('backups.bad_manifest', `The backup's manifest is refused: ${fault}.`, {
    details: { reason, ...details },
  });
const refuseFrame = (reason: string, fault: string) => badManifest(reason, fault);
const tooLong = (limits: ManifestLimits) => badManifest('limit', `a line has more than ${limits.lineBytes} bytes`);
