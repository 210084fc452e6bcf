/** How bytes come and go in this folder: a sink takes them in order, a source gives any part of them. Files, S3 parts and ranges, presigned URLs
 *  and tests are made to these forms by whoever has them. */

export interface ByteSink {
  /** A promise that is returned is awaited before the next call: that is how a slow destination slows the archive down.
   *  `bytes` are lent until then, or until a call without a promise returns, and given back to the system afterwards: who keeps them copies. */
  write(bytes: Buffer): void | Promise<void>;
}

export interface ByteSource {
  readonly size: number;
  /** The bytes from `start` up to, and without, `end`; in pieces of any length, all of them or an error. */
  read(start: number, end: number): AsyncIterable<Buffer>;
}

/** Of one buffer that nobody else has a view of, once nobody reads it any more: its memory is free at once, while the collector would let
 *  hundreds of megabytes of such buffers pile up before it looks, and take its time then. */
export const release = (bytes: Buffer, least: number = LEAST_RELEASED): void => {
  if (bytes.buffer instanceof ArrayBuffer && bytes.buffer.byteLength >= least) bytes.buffer.transfer(0);
};
/** Smaller ones may be parts of Node.js' pool, but for those that are known to be none. */
const LEAST_RELEASED = 128 * 1024;
