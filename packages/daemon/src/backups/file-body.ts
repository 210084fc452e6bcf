import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import type { Body } from './s3-objects.ts';

/** A part of a file of ours as the body of a request, at the speed that is allowed. */

export interface FileRange {
  path: string;
  start: number;
  bytes: number;
}

const CHUNK_BYTES = 256 * 1024;

async function* chunksOf({ path, start, bytes }: FileRange): AsyncGenerator<Buffer, void, undefined> {
  const file: FileHandle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    for (let at = 0; at < bytes; ) {
      const chunk = Buffer.allocUnsafeSlow(Math.min(CHUNK_BYTES, bytes - at));
      const { bytesRead } = await file.read(chunk, 0, chunk.length, start + at);
      if (bytesRead === 0) throw new Error(`${path} is shorter than it was`);
      at += bytesRead;
      yield chunk.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}

/** @param counted what of it is on its way: less again when a try begins anew */
export const fileBody = (
  range: FileRange,
  sha256: string,
  { take, counted }: { take(bytes: number): Promise<void>; counted(bytes: number): void },
): Body => {
  let told = 0;
  return {
    bytes: range.bytes,
    sha256,
    async *read() {
      counted(-told);
      told = 0;
      for await (const chunk of chunksOf(range)) {
        await take(chunk.length);
        yield chunk;
        told += chunk.length;
        counted(chunk.length);
      }
    },
  };
};

export const sha256Of = async (range: FileRange): Promise<string> => {
  const hash = createHash('sha256');
  for await (const chunk of chunksOf(range)) hash.update(chunk);
  return hash.digest('hex');
};
