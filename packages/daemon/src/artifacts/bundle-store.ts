import { createHash, type Hash } from 'node:crypto';
import { constants, lstatSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import type { BodySink } from '../platform/http/door.ts';
import type { Logger } from '../platform/log.ts';
import { errnoOf } from '../platform/process.ts';

/** Bundles on disk, `<data-dir>/artifacts/<sha256>.tar.zst`: complete and durable or not there. What is read is checked against its
 *  name each time, so that a file that somebody changed counts as absent. */

export interface BundleOf {
  artifactId: string;
  sha256: string;
  size: number;
}

export interface BundleStoreOptions {
  /** Made when it is not there; ours alone, never a link. */
  folder: string;
  /** All bundles together, those on their way included. */
  maxBytes: number;
  /** One attempt. @throws Unreachable, or AegisError with the server's own code, or what the sink threw */
  download(bundle: BundleOf, sink: BodySink, signal: AbortSignal): Promise<void>;
  /** Digests that must stay. */
  inUse(): ReadonlySet<string>;
  faults: FaultPoints;
  log: Logger;
  signal: AbortSignal;
}

const { O_RDONLY, O_WRONLY, O_APPEND, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_DIRECTORY } = constants;
const DOWNLOADS = 2;
const FILE = /^([0-9a-f]{64})\.tar\.zst$/;

export type BundleStore = ReturnType<typeof bundleStore>;

export const bundleStore = (options: BundleStoreOptions) => {
  const { folder, maxBytes, download, inUse, faults, log, signal } = options;
  mkdirSync(folder, { mode: 0o700, recursive: true });
  // What is no bundle is swept out of it: that must be our own folder, not what a link leads to.
  if (!lstatSync(folder).isDirectory())
    throw new AegisError(
      'config.invalid',
      `${folder} is a symbolic link, which the daemon does not follow: remove it; to keep bundles elsewhere, mount that place there.`,
    );
  const pathOf = (sha256: string): string => join(folder, `${sha256}.tar.zst`);
  const sizes = new Map<string, number>();
  const fetching = new Map<string, Promise<void>>();
  let free = DOWNLOADS;
  const queue: (() => void)[] = [];
  let serial = 0;

  const stored = (): number => [...sizes.values()].reduce((sum, size) => sum + size, 0);

  /** Room for so many bytes more, made by removing what nobody needs. @throws AegisError artifacts.storage_full */
  const reserve = async ({ sha256, size }: BundleOf): Promise<void> => {
    if (stored() + size > maxBytes) await removeUnused();
    const total = stored() + size;
    if (total > maxBytes)
      throw new AegisError(
        'artifacts.storage_full',
        `The node's bundles would take ${total} bytes, ${maxBytes} are allowed: unassign artifacts, or raise its artifacts_max_bytes.`,
      );
    sizes.set(sha256, size);
  };
  const removeUnused = async (): Promise<void> => {
    const keep = inUse();
    for (const sha256 of [...sizes.keys()]) {
      if (keep.has(sha256) || fetching.has(sha256)) continue;
      await rm(pathOf(sha256), { force: true });
      sizes.delete(sha256);
    }
  };

  const turn = async (): Promise<void> => {
    if (free > 0) free--;
    else await new Promise<void>((resolve) => queue.push(resolve));
  };
  const giveTurn = (): void => {
    const next = queue.shift();
    if (next) next();
    else free++;
  };

  const fetchOnce = async (bundle: BundleOf): Promise<void> => {
    await turn();
    const temporary = join(folder, `${bundle.sha256}.${process.pid}-${++serial}.part`);
    let handle: FileHandle | null = null;
    try {
      await reserve(bundle);
      handle = await open(temporary, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
      const sink = checkingSink(handle, bundle);
      await download(bundle, sink, signal);
      sink.finish();
      await handle.sync();
      await handle.close();
      handle = null;
      faults.at('daemon.before-store.bundle');
      await rename(temporary, pathOf(bundle.sha256));
      await syncFolder(folder);
      faults.at('daemon.after-store.bundle');
    } catch (error) {
      await handle?.close();
      await rm(temporary, { force: true });
      sizes.delete(bundle.sha256);
      if (errnoOf(error) === 'ENOSPC' || errnoOf(error) === 'EDQUOT')
        throw new AegisError('artifacts.storage_full', `There is no room for a bundle in ${folder}: free disk space.`, {
          cause: error,
        });
      throw error;
    } finally {
      giveTurn();
    }
  };

  return {
    /** At start: what an earlier process left half done, and everything that is no bundle. */
    sweep: async (): Promise<void> => {
      for (const name of readdirSync(folder)) {
        const sha256 = FILE.exec(name)?.[1];
        const stat = sha256 ? statSync(join(folder, name), { throwIfNoEntry: false }) : undefined;
        if (sha256 && stat?.isFile()) sizes.set(sha256, stat.size);
        else {
          log.warn({ file: name }, 'removed what is no bundle from the bundles');
          await rm(join(folder, name), { recursive: true, force: true });
        }
      }
      await removeUnused();
    },
    has: (sha256: string): boolean => sizes.has(sha256) && !fetching.has(sha256),
    /** The bundle's bytes, or null when it is not there whole. */
    read: async ({ sha256, size }: Pick<BundleOf, 'sha256' | 'size'>): Promise<Buffer | null> => {
      const bytes = await readChecked(pathOf(sha256), sha256, size);
      if (!bytes && sizes.has(sha256) && !fetching.has(sha256)) {
        log.error({ sha256 }, 'a stored bundle is not what it was: fetching it again');
        await rm(pathOf(sha256), { recursive: true, force: true });
        sizes.delete(sha256);
      }
      return bytes;
    },
    /** Fetches it, one attempt; several callers share it.
     *  @throws Unreachable; AegisError artifacts.digest_mismatch | artifacts.storage_full | the server's own */
    fetch: (bundle: BundleOf): Promise<void> => {
      const running = fetching.get(bundle.sha256);
      if (running) return running;
      const started = fetchOnce(bundle).finally(() => fetching.delete(bundle.sha256));
      fetching.set(bundle.sha256, started);
      return started;
    },
    removeUnused,
    bytes: stored,
  };
};

/** Writes what comes, as long as it is not more than was announced, and digests it on the way. */
const checkingSink = (handle: FileHandle, { sha256, size }: BundleOf): BodySink & { finish(): void } => {
  let digest: Hash = createHash('sha256');
  let length = 0;
  const mismatch = (what: string): AegisError =>
    new AegisError(
      'artifacts.digest_mismatch',
      `The server's bundle ${what}: it is not the one that was assigned. Check the server's blobs, or publish it again.`,
    );
  return {
    begin: async () => {
      await handle.truncate(0);
      digest = createHash('sha256');
      length = 0;
    },
    write: async (part) => {
      length += part.length;
      if (length > size) throw mismatch(`is longer than the ${size} bytes that the assignment names`);
      digest.update(part);
      await handle.appendFile(part);
    },
    finish: () => {
      if (length !== size) throw mismatch(`has ${length} bytes, the assignment names ${size}`);
      const got = digest.digest('hex');
      if (got !== sha256) throw mismatch(`has the SHA-256 ${got}, the assignment names ${sha256}`);
    },
  };
};

const readChecked = async (path: string, sha256: string, size: number): Promise<Buffer | null> => {
  let handle: FileHandle;
  try {
    handle = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch (error) {
    if (['ENOENT', 'ELOOP', 'EISDIR', 'ENXIO'].includes(errnoOf(error) ?? '')) return null;
    throw error;
  }
  try {
    const stat = await handle.stat();
    if (!stat.isFile() || stat.size !== size) return null;
    const bytes = await handle.readFile();
    return createHash('sha256').update(bytes).digest('hex') === sha256 ? bytes : null;
  } finally {
    await handle.close();
  }
};

const syncFolder = async (folder: string): Promise<void> => {
  const handle = await open(folder, O_RDONLY | O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
};
