import type { IncomingHttpHeaders } from 'node:http';
import { parseRange } from '../platform/http/byte-range.ts';
import type { Binary } from './library.ts';

/** A bundle as HTTP answers it (RFC 9110, RFC 9530): its digest is its strong entity tag, and it never changes. */
export interface BinaryAnswer {
  status: 200 | 206 | 304 | 416;
  headers: Readonly<Record<string, string>>;
  bytes: Buffer | null;
}

export const binaryAnswer = ({ bytes, sha256, fileName }: Binary, request: IncomingHttpHeaders): BinaryAnswer => {
  const etag = `"${sha256}"`;
  const headers = {
    etag,
    'cache-control': 'private, max-age=31536000, immutable',
    'repr-digest': `sha-256=:${Buffer.from(sha256, 'hex').toString('base64')}:`,
    'accept-ranges': 'bytes',
  };
  if (names(request['if-none-match'], etag)) return { status: 304, headers, bytes: null };
  const whole = {
    ...headers,
    'content-type': 'application/zstd',
    'content-disposition': `attachment; filename="${fileName}"`,
  };
  const wanted = request['if-range'];
  const range = wanted === undefined || String(wanted).trim() === etag ? parseRange(request.range, bytes.length) : null;
  if (range === 'unsatisfiable')
    return { status: 416, headers: { ...headers, 'content-range': `bytes */${bytes.length}` }, bytes: null };
  if (!range) return { status: 200, headers: whole, bytes };
  return {
    status: 206,
    headers: { ...whole, 'content-range': `bytes ${range.start}-${range.end}/${bytes.length}` },
    bytes: bytes.subarray(range.start, range.end + 1),
  };
};

/** Weak comparison, as If-None-Match wants it. */
const names = (list: string | undefined, etag: string): boolean =>
  list?.split(',').some((one) => one.trim() === '*' || one.trim().replace(/^W\//, '') === etag) ?? false;
