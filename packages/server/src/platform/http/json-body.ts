import { gunzip, zstdDecompress } from 'node:zlib';
import { AegisError } from '@aegis/protocol/errors';

/** Request bodies: unpacked within a bound, parsed, and refused where JSON could surprise whoever reads it. */

export const BODY_LIMIT_BYTES = 8 * 1024 * 1024; // as sent and as unpacked
const MAX_DEPTH = 32;

const tooLarge = () =>
  new AegisError('http.too_large', 'The body is larger than 8 MiB. Send less at once.', {
    details: { limit_bytes: BODY_LIMIT_BYTES },
  });

/** Undoes `Content-Encoding`. @throws AegisError http.too_large, http.malformed, http.unsupported_media_type */
export const unpackBody = async (body: Buffer, encoding: string | undefined): Promise<Buffer> => {
  switch (encoding?.trim().toLowerCase()) {
    case undefined:
    case '':
    case 'identity':
      return body;
    case 'gzip':
    case 'x-gzip':
      return unpackedBy(gunzip, body, 'gzip');
    case 'zstd':
      return unpackedBy(zstdDecompress, body, 'zstd');
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

const unpackedBy = (unpack: Unpack, body: Buffer, name: string): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    unpack(body, { maxOutputLength: BODY_LIMIT_BYTES }, (error, unpacked) => {
      if (!error) resolve(unpacked);
      else if ('code' in error && error.code === 'ERR_BUFFER_TOO_LARGE') reject(tooLarge());
      else reject(new AegisError('http.malformed', `The body is not what its Content-Encoding says: not ${name}.`));
    });
  });

/** @throws AegisError http.malformed */
export const parseJsonBody = (body: Buffer): unknown => {
  if (body.length === 0) return {};
  let value: unknown;
  try {
    value = JSON.parse(utf8.decode(body));
  } catch (cause) {
    throw new AegisError('http.malformed', `The body is not JSON: ${jsonFault(cause)}.`, { cause });
  }
  refuseSurprises(value, 0);
  return value;
};

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** V8's message quotes the text around the fault; the position alone tells as much and repeats no secret. */
const jsonFault = (cause: unknown): string => {
  if (!(cause instanceof SyntaxError)) return 'it is not UTF-8';
  const position = /position \d+/.exec(cause.message)?.[0];
  return position ? `malformed at ${position}` : 'it ends too early or is malformed';
};

/** Keys that change what an object is, for whoever copies it carelessly, and nesting without end. */
const refuseSurprises = (value: unknown, depth: number): void => {
  if (typeof value !== 'object' || value === null) return;
  if (depth >= MAX_DEPTH)
    throw new AegisError('http.malformed', `The body's JSON is nested more than ${MAX_DEPTH} levels deep.`);
  if (Array.isArray(value)) {
    for (const item of value) refuseSurprises(item, depth + 1);
    return;
  }
  for (const [key, item] of Object.entries(value)) {
    if (
      key === '__proto__' ||
      (key === 'constructor' && typeof item === 'object' && item !== null && 'prototype' in item)
    )
      throw new AegisError('http.malformed', `The body's JSON may not have the key '${key}'.`);
    refuseSurprises(item, depth + 1);
  }
};
