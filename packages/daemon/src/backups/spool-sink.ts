import { createHash, type Hash } from 'node:crypto';
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { ByteSink } from '@aegis/archive/backup/bytes';
import { partFile, type SpooledPart } from './archive-job.ts';
import { partBytes } from './part-sizes.ts';

/** Where the packing thread writes: parts of an upload, each in a file of its own until it is uploaded. Synchronous, as all of that thread;
 *  waits when enough parts lie there. */

const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;

export interface SpoolSink extends ByteSink {
  /** The last part, also when it is not full. */
  end(): void;
  /** A part was uploaded. */
  room(): void;
  close(): void;
}

export const spoolSink = ({
  folder,
  firstPartBytes,
  aheadParts,
  onPart,
}: {
  folder: string;
  firstPartBytes: number;
  aheadParts: number;
  onPart(part: SpooledPart, last: boolean): void;
}): SpoolSink => {
  let number = 0;
  let ahead = 0;
  let open: { fd: number; hash: Hash; bytes: number; most: number } | null = null;
  let wake: (() => void) | null = null;

  const begin = (): NonNullable<typeof open> => {
    number++;
    const fd = openSync(join(folder, partFile(number)), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    open = { fd, hash: createHash('sha256'), bytes: 0, most: partBytes(firstPartBytes, number) };
    return open;
  };
  const finish = (last: boolean): void => {
    if (!open) return;
    const { fd, hash, bytes } = open;
    closeSync(fd);
    open = null;
    ahead++;
    onPart({ number, bytes, sha256: hash.digest('hex') }, last);
  };
  const put = (bytes: Buffer): number => {
    const part = open ?? begin();
    const some = bytes.subarray(0, part.most - part.bytes);
    writeWhole(part.fd, some);
    part.hash.update(some);
    part.bytes += some.length;
    return some.length;
  };
  /** A full part is only finished when more comes: so the last one is known as such. */
  const write = (bytes: Buffer): void | Promise<void> => {
    for (let at = 0; at < bytes.length; ) {
      if (open && open.bytes === open.most) {
        finish(false);
        if (ahead >= aheadParts) return waitForRoom().then(() => write(bytes.subarray(at)));
      }
      at += put(bytes.subarray(at));
    }
  };
  const waitForRoom = (): Promise<void> =>
    new Promise((resolve) => {
      wake = resolve;
    });

  return {
    write,
    end: () => {
      if (!open) begin();
      finish(true);
    },
    room: () => {
      ahead--;
      const woken = wake;
      wake = null;
      woken?.();
    },
    close: () => {
      if (open) closeSync(open.fd);
      open = null;
    },
  };
};

/** A file that a thread writes from its beginning. */
export const fileSink = (fd: number): ByteSink => ({ write: (bytes) => writeWhole(fd, bytes) });

const writeWhole = (fd: number, bytes: Buffer): void => {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
};
