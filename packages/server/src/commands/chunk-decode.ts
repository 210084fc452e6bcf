import type { Chunk } from '@aegis/protocol/commands/carrier';
import { AegisError } from '@aegis/protocol/errors';
import type { PlacedChunk } from './chunk-plan.ts';
import { storable } from './storable.ts';

/** Chunks as they travel in JSON, to bytes: exactly, or refused. */

const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

/** @throws AegisError http.malformed naming the chunk */
export const decodeChunks = (chunks: readonly Chunk[]): PlacedChunk[] =>
  chunks.map((chunk, at) => {
    const { stream, offset } = chunk;
    if ('gap' in chunk) return { stream, offset, gap: chunk.gap, reason: storable(chunk.reason) };
    if (chunk.encoding === 'base64') {
      // Buffer.from skips whatever is not base64: what it would skip is refused.
      if (chunk.data.length % 4 !== 0 || !BASE64.test(chunk.data))
        throw malformed(at, 'is not base64 (RFC 4648, with padding)');
      return { stream, offset, bytes: Buffer.from(chunk.data, 'base64') };
    }
    if (!chunk.data.isWellFormed()) throw malformed(at, 'is not Unicode text; send it as base64');
    return { stream, offset, bytes: Buffer.from(chunk.data, 'utf8') };
  });

const malformed = (at: number, why: string): AegisError =>
  new AegisError('http.malformed', `The request is malformed: chunks.${at}.data ${why}.`, {
    details: { part: 'body', issues: [{ field: `chunks.${at}.data`, reason: why }] },
  });
