import { gunzip, zstdDecompress } from 'node:zlib';
import { AegisError } from '@aegis/protocol/errors';

/** Request bodies: unpacked within a bound, parsed, and refused where JSON could surprise whoever reads it. */

/** As sent and as unpacked. */
export const BODY_LIMIT_BYTES = 8 * 1024 * 1024;
/** Where anyone may call: an enrolment is a few KiB, and nobody in particular shall keep us busy with megabytes. */
export const ANYONES_BODY_LIMIT_BYTES = 256 * 1024;
const MAX_DEPTH = 32;
/** Members and elements together: a hundred reports with their chunks, or ten thousand targets, are far below. A schema looks at
 *  each one and tells what is wrong with it, which takes seconds and a gigabyte for the millions that fit into 8 MiB. */
const MAX_VALUES = 50_000;
export const ANYONES_MAX_VALUES = 500;

export const TOO_LARGE =
  'The body is larger than is taken here (8 MiB; 24 MiB for an artifact; 256 KiB where no credential is asked for). Send less at once.';

/** Undoes `Content-Encoding`. @throws AegisError http.too_large, http.malformed, http.unsupported_media_type */
export const unpackBody = async (body: Buffer, encoding: string | undefined, limitBytes: number): Promise<Buffer> => {
  switch (encoding?.trim().toLowerCase()) {
    case undefined:
    case '':
    case 'identity':
      return body;
    case 'gzip':
    case 'x-gzip':
      return unpackedBy(gunzip, body, 'gzip', limitBytes);
    case 'zstd':
      return unpackedBy(zstdDecompress, body, 'zstd', limitBytes);
    default:
      throw new AegisError(
        'http.unsupported_media_type',
        'The Content-Encoding of this body is not known here. Use gzip, zstd or none.',
      );
  }
};

type Unpack = (
  body: Buffer,
  options: { maxOutputLength: number },
  done: (error: Error | null, unpacked: Buffer) => void,
) => void;

const unpackedBy = (unpack: Unpack, body: Buffer, name: string, limitBytes: number): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    unpack(body, { maxOutputLength: limitBytes }, (error, unpacked) => {
      if (!error) resolve(unpacked);
      else if ('code' in error && error.code === 'ERR_BUFFER_TOO_LARGE')
        reject(new AegisError('http.too_large', TOO_LARGE));
      else reject(new AegisError('http.malformed', `The body is not what its Content-Encoding says: not ${name}.`));
    });
  });

/** @throws AegisError http.malformed */
export const parseJsonBody = (body: Buffer, maxValues: number = MAX_VALUES): unknown => {
  if (body.length === 0) return {};
  refuseDeepOrMany(body, maxValues);
  let value: unknown;
  try {
    value = JSON.parse(utf8.decode(body));
  } catch (cause) {
    throw new AegisError('http.malformed', `The body is not JSON: ${jsonFault(cause)}.`, { cause });
  }
  refuseSurprises(value);
  return value;
};

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** V8's message quotes the text around the fault; the position alone tells as much and repeats no secret. */
const jsonFault = (cause: unknown): string => {
  if (!(cause instanceof SyntaxError)) return 'it is not UTF-8';
  const position = /position \d+/.exec(cause.message)?.[0];
  return position ? `malformed at ${position}` : 'it ends too early or is malformed';
};

/** Before it is parsed: to build millions of nested objects takes seconds, in which nobody else is answered. */
const refuseDeepOrMany = (body: Buffer, maxValues: number): void => {
  let depth = 0;
  let values = 1;
  for (let at = 0; at < body.length; at++) {
    const byte = body[at];
    if (byte === QUOTE) at = stringEnd(body, at);
    else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
      if (++depth > MAX_DEPTH)
        throw new AegisError('http.malformed', `The body's JSON is nested more than ${MAX_DEPTH} levels deep.`);
    } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) depth--;
    else if (byte === COMMA && ++values > maxValues)
      throw new AegisError(
        'http.malformed',
        `The body's JSON holds more than ${maxValues} values. Send fewer at once.`,
      );
  }
};
const [QUOTE, BACKSLASH, OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY, COMMA] = Buffer.from('"\\{}[],');

/** Shorter strings are walked through: a jump costs as much as so many bytes. */
const JUMP_AFTER_BYTES = 64;

/** The closing quote of the string that opens at `start`, or the end. Long ones by jumps: most of a large body is strings. */
const stringEnd = (body: Buffer, start: number): number => {
  const near = Math.min(body.length, start + JUMP_AFTER_BYTES);
  for (let at = start + 1; at < near; at++) {
    const byte = body[at];
    if (byte === QUOTE) return at;
    if (byte === BACKSLASH) at++;
  }
  for (let end = body.indexOf('"', start + 1); end >= 0; end = body.indexOf('"', end + 1)) {
    let escapes = 0;
    while (body[end - 1 - escapes] === BACKSLASH) escapes++;
    if (escapes % 2 === 0) return end;
  }
  return body.length;
};

/** Keys that change what an object is, for whoever copies it carelessly. */
const refuseSurprises = (value: unknown): void => {
  if (typeof value !== 'object' || value === null) return;
  if (Array.isArray(value)) {
    for (const item of value) refuseSurprises(item);
    return;
  }
  for (const key of Object.keys(value)) {
    const item: unknown = (value as Record<string, unknown>)[key];
    if (
      key === '__proto__' ||
      (key === 'constructor' && typeof item === 'object' && item !== null && 'prototype' in item)
    )
      throw new AegisError('http.malformed', `The body's JSON may not have the key '${key}'.`);
    refuseSurprises(item);
  }
};
