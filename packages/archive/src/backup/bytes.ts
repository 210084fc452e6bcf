/** How bytes come and go in this folder: a sink takes them in order, a source gives any part of them. Files, S3 parts and ranges, presigned URLs
 *  and tests are made to these forms by whoever has them. */

export interface ByteSink {
  /** A promise that is returned is awaited before the next call: that is how a slow destination slows the archive down. */
  write(bytes: Buffer): void | Promise<void>;
}

export interface ByteSource {
  readonly size: number;
  /** The bytes from `start` up to, and without, `end`; in pieces of any length, all of them or an error. */
  read(start: number, end: number): AsyncIterable<Buffer>;
}
