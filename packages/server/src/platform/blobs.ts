import { createHash, randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, lstat, mkdir, open, readdir, rename, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import { blobCache } from './blobs-cache.ts';

/** Blobs: bytes named by their SHA-256, each a file `<folder>/<first two digits>/<digest>` of mode 0600. One is there whole and
 *  durable, or not at all; what is read is compared with its name. Processes that share a folder
 *  take turns: `put` up to what names it, `remove` and `sweep` never overlap. */

export interface Blobs {
  /** Durable when it resolves. One that is there already stays, unless its bytes are damaged.
   *  @throws an error with `code` ENOSPC or EDQUOT when the disk is full: nothing is left behind then */
  put(digest: string, bytes: Uint8Array): Promise<void>;
  /** From memory where it is kept; many at once read it once. @throws BlobFault */
  read(digest: string): Promise<Buffer>;
  remove(digest: string): Promise<void>;
  /** Removes every file that is no blob of these: what a crash left. Nobody may put at the same time. Answers how many. */
  sweep(keep: (digests: readonly string[]) => Promise<ReadonlySet<string>>): Promise<number>;
}

/** A blob that is missing or damaged. */
export class BlobFault extends Error {
  readonly reason: 'missing' | 'damaged';
  constructor(reason: 'missing' | 'damaged', path: string, cause?: unknown) {
    super(`the blob ${path} is ${reason}`, { cause });
    this.reason = reason;
  }
}

const DIGEST = /^[0-9a-f]{64}$/;
const READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
const CREATE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;

export const openBlobs = async (options: {
  folder: string;
  cacheBytes: number;
  faults: FaultPoints;
}): Promise<Blobs> => {
  const { folder, faults } = options;
  await privateFolder(folder);
  const cache = blobCache(options.cacheBytes);
  const homeOf = (digest: string): string => {
    if (!DIGEST.test(digest)) throw new RangeError('not a SHA-256 in lower-case hexadecimal');
    return join(folder, digest.slice(0, 2));
  };
  const pathOf = (digest: string): string => join(homeOf(digest), digest);
  const fromDisk = async (digest: string): Promise<Buffer> => {
    const path = pathOf(digest);
    const bytes = await readPlain(path);
    if (createHash('sha256').update(bytes).digest('hex') !== digest) throw new BlobFault('damaged', path);
    return bytes;
  };
  return {
    put: async (digest, bytes) => {
      const home = homeOf(digest);
      const known = await fromDisk(digest).catch(() => null); // damaged: written anew
      if (known) return;
      if (await privateFolder(home)) await syncFolder(folder);
      const draft = join(home, `.${randomBytes(8).toString('hex')}.new`);
      try {
        await writeDurably(draft, bytes);
        faults.at('server.blob-before-rename');
        await rename(draft, pathOf(digest));
      } catch (error) {
        await unlink(draft).catch(() => undefined); // the first error is the one to tell
        throw error;
      }
      await syncFolder(home);
      faults.at('server.blob-after-rename');
    },
    read: (digest) => cache.get(digest, () => fromDisk(digest)),
    remove: async (digest) => {
      cache.forget(digest);
      await unlink(pathOf(digest)).catch(unlessMissing);
    },
    sweep: async (keep) => {
      let removed = 0;
      for (const home of await readdir(folder)) {
        if (!/^[0-9a-f]{2}$/.test(home)) continue;
        const names = await readdir(join(folder, home));
        const kept = await keep(names.filter((name) => DIGEST.test(name)));
        for (const name of names) {
          if (kept.has(name)) continue;
          cache.forget(name);
          await unlink(join(folder, home, name)).catch(unlessMissing);
          removed++;
        }
      }
      return removed;
    },
  };
};

const readPlain = async (path: string): Promise<Buffer> => {
  let file: FileHandle;
  try {
    file = await open(path, READ);
  } catch (cause) {
    throw new BlobFault(codeOf(cause) === 'ENOENT' ? 'missing' : 'damaged', path, cause);
  }
  try {
    if (!(await file.stat()).isFile()) throw new BlobFault('damaged', path);
    return await file.readFile();
  } finally {
    await file.close();
  }
};

const writeDurably = async (path: string, bytes: Uint8Array): Promise<void> => {
  const file = await open(path, CREATE, 0o600);
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
};

/** True when it was made just now. A link in its place is refused. */
const privateFolder = async (path: string): Promise<boolean> => {
  try {
    await mkdir(path, { mode: 0o700 });
    return true;
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error;
    if (!(await lstat(path)).isDirectory()) throw new Error(`${path} is not a folder`, { cause: error });
    return false;
  }
};

const syncFolder = async (path: string): Promise<void> => {
  const folder = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
};

const codeOf = (error: unknown): unknown =>
  typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined;
const unlessMissing = (error: unknown): void => {
  if (codeOf(error) !== 'ENOENT') throw error;
};
