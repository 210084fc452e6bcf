import { randomBytes } from 'node:crypto';
import { type FileCalls, fileCalls, nameAt } from '@aegis/native/files';
import { SystemError } from '@aegis/native/system-error';
import { AegisError } from '@aegis/protocol/errors';
import type { Entry } from '../manifest/lines.ts';
import type { RestoreOptions, RestoreResult } from './backup.ts';
import { deleteTree, isMountPoint } from './delete-tree.ts';
import { entryReader } from './entry-reader.ts';
import { entryWriter, type Outcome } from './entry-writer.ts';
import { type Archive, chosenFrames, type FrameFeed, wholeArchive } from './frame-feed.ts';
import type { ManifestStore } from './manifest-store.ts';
import { isBelow, isRoot } from './path-order.ts';
import { pathFilter } from './paths.ts';
import { type Placing, placing } from './placing.ts';
import { badArchive, throwIfCancelled } from './refusals.ts';
import { smallFiles } from './small-files.ts';
import { tally } from './tally.ts';
import { type TarWindow, tarWindow } from './tar-window.ts';
import { type Level, TargetTree } from './target-tree.ts';

/** A restore from its first entry to its last: goes through manifest and tar side by side, hands each entry to the writer, and keeps count. */

export interface RestoreDeps {
  manifest: ManifestStore;
  archive: Archive;
  files?: FileCalls;
}

/** @throws AegisError backups.unsafe_target, backups.bad_archive, backups.bad_manifest, backups.restore_incomplete, backups.cancelled */
export const restoreInto = async (deps: RestoreDeps, options: RestoreOptions): Promise<RestoreResult> => {
  refuseOdd(options, deps.manifest);
  const wanted = pathFilter(options.paths ?? []);
  const chosen = (options.paths ?? []).length > 0;
  const feed = await feedFor(deps, options, chosen ? wanted : null);
  try {
    return await run(deps, options, wanted, feed, !chosen);
  } finally {
    await feed?.close();
  }
};

const refuseOdd = (
  { owners, setuid, deleteExtra, overwrite, paths }: RestoreOptions,
  manifest: ManifestStore,
): void => {
  const refuse = (sentence: string) => new AegisError('backups.unsafe_target', sentence);
  if (owners && process.geteuid?.() !== 0)
    throw refuse('Owners can be restored by root only: run it as root, or without --owners.');
  if (setuid && !owners)
    throw refuse(
      'setuid bits are restored together with owners only: a setuid file that belongs to someone else is dangerous. Add --owners.',
    );
  if (deleteExtra && (overwrite ?? 'never') === 'never')
    throw refuse(
      "--delete removes what the backup does not have: it needs --overwrite always or if-newer, not 'never'.",
    );
  if (deleteExtra && (paths ?? []).length > 0) throw refuse('--delete works on the whole backup: leave out --path.');
  if (deleteExtra && manifest.end.errors > MOST_KEPT)
    throw refuse(
      `The backup has ${manifest.end.errors} errors, too many to tell what --delete may remove: leave it out.`,
    );
};
const MOST_KEPT = 100_000;

/** Null in a dry run. Frames that hold what is wanted, or all of them when `wanted` is null. */
const feedFor = async (
  { manifest, archive }: RestoreDeps,
  { dryRun, signal }: RestoreOptions,
  wanted: ((entry: Entry) => boolean) | null,
): Promise<FrameFeed | null> => {
  if (dryRun) return null;
  if (!wanted) return wholeArchive(archive, signal);
  const { table } = archive;
  const marks = new Uint8Array(table.count);
  for await (const batch of manifest.batches())
    for (const entry of batch)
      if (entry.length > 0 && wanted(entry))
        marks.fill(1, table.at(entry.offset), table.at(entry.offset + entry.length - 1) + 1);
  return chosenFrames(archive, { from: 0, until: table.count, wanted: (index) => marks[index] === 1 }, signal);
};

const run = async (
  { manifest, archive, files = fileCalls() }: RestoreDeps,
  options: RestoreOptions,
  wanted: (entry: Entry) => boolean,
  feed: FrameFeed | null,
  whole: boolean,
): Promise<RestoreResult> => {
  const { overwrite = 'never', dryRun = false, deleteExtra = false, owners = false, setuid = false, signal } = options;
  const count = tally({ options, entriesTotal: manifest.end.entries, archiveBytes: () => feed?.archiveBytes() ?? 0 });
  const kept = deleteExtra ? await keptPaths(manifest) : NOTHING_KEPT;
  const small = smallFiles();
  const window = feed && tarWindow(feed, small.release);
  const reader = window && entryReader(window);
  const folders = ancestors();
  let place: Placing | null = null;
  const temporaryPrefix = `.aegis-restore-${randomBytes(9).toString('base64url')}-`;
  const tree = new TargetTree({
    probeName: Buffer.from(`${temporaryPrefix}probe`),
    files,
    target: options.target,
    dryRun,
    scattered: manifest.scattered,
    modeOf: folders.modeOf,
    leave: (level, path) => {
      const { finish } = level;
      if (!finish) return;
      if (finish.seen) deleteOthers(level, path, finish.seen);
      if (finish.header && !level.absent && !dryRun)
        place?.dress(
          level.fd,
          finish.header,
          path,
          level.fresh ? (level.inheritsAcl ? 'inherits-acl' : 'clean') : 'used',
        );
    },
  });
  const deleteOthers = (level: Level, path: Buffer, seen: ReadonlySet<string>): void => {
    if (level.absent || level.fresh || kept.folders.has(path.toString('latin1'))) return;
    const above = path.length === 1 && path[0] === 0x2e ? '' : `${path.toString('latin1')}/`;
    try {
      // With `one_file_system` the backup has the mount point alone: what lies behind it was never looked at.
      if (above !== '' && seen.size === 0 && isMountPoint(files, level.fd)) return;
      const listing = files.readDirectory(level.fd);
      for (let at = 0; at < listing.ends.length; at++) {
        const name = nameAt(listing, at);
        const text = name.toString('latin1');
        if (!seen.has(text) && !kept.paths.has(`${above}${text}`))
          removeTree(level, name, Buffer.from(above, 'latin1'));
      }
    } catch (error) {
      count.failed(path, error);
    }
  };
  const removeTree = (level: Level, name: Buffer, above: Buffer): void => {
    try {
      const deleted = (path: readonly Buffer[]) => count.deleted(joined(above, path));
      deleteTree(files, level.fd, name, deleted, dryRun);
    } catch (error) {
      count.failed(joined(above, [name]), error);
    }
  };
  place = placing({
    files,
    wishes: { owners, setuid },
    overwrite,
    replaceFolders: deleteExtra,
    ownUid: () => tree.ownUid,
    temporaryPrefix,
    onFlaw: count.flaw,
    removeTree: (level, name) => deleteTree(files, level.fd, name, (path) => count.deleted(joined(EMPTY, path))),
  });
  const writer = entryWriter({
    files,
    tree,
    placing: place,
    overwrite,
    devices: owners,
    deleteExtra,
    linkTargets: manifest.linkTargets,
    onBytes: count.bytes,
    again: (entry, use) => readAgain(archive, entry, signal, use),
    small,
    onLater: (entry, ended) => {
      if (typeof ended === 'string') count.done(ended, entry.path);
      else goOn(entry, ended.error);
    },
  });

  const one = (entry: Entry): Outcome | Promise<Outcome> =>
    reader ? writer.write(entry, reader) : writer.foresee(entry);
  const goOn = (entry: Entry, error: unknown): void => {
    if (window?.failure !== undefined) throw window.failure;
    if (isFatal(error)) throw error;
    count.failed(entry.path, error, explained(entry, error, owners));
  };
  let tarEnd = 0;
  try {
    for await (const batch of manifest.batches())
      for (const entry of batch) {
        if (count.due()) {
          throwIfCancelled(signal);
          count.tell(entry.path);
        }
        tarEnd = entry.offset + entry.length;
        folders.pass(entry);
        if (!wanted(entry)) {
          writer.pass(entry);
          continue;
        }
        try {
          const given = one(entry);
          const outcome = typeof given === 'string' ? given : await given;
          if (outcome !== 'later') count.done(outcome, entry.path);
        } catch (error) {
          goOn(entry, error);
        }
        const wait = small.room();
        if (wait) await wait;
      }
    await small.drain();
    tree.finish();
    if (window && whole) await provenEnd(window, tarEnd, manifest.end.tar_bytes);
    return count.result(window !== null && whole);
  } catch (error) {
    await small.drain().catch(() => undefined); // what is under way is proven; the first error is the one to tell
    throw givenUp(error, tree, count);
  } finally {
    tree.close();
  }
};

/** Folders that were restored so far are finished all the same: what is in them is proven, and their modes are the backup's. */
const givenUp = (error: unknown, tree: TargetTree, count: ReturnType<typeof tally>): unknown => {
  try {
    tree.finish();
  } catch (second) {
    count.failed(EMPTY, second);
  }
  const { restored, skipped, deleted, errorCount, errors } = count.result(false);
  const so = {
    restored,
    skipped,
    deleted,
    error_count: errorCount,
    errors: errors.slice(0, 10).map(({ code, message }) => ({ code, message })),
  };
  if (error instanceof AegisError)
    return new AegisError(error.code, error.message, { details: { ...error.details, ...so }, cause: error });
  if (error instanceof SystemError)
    return new AegisError(
      'backups.restore_incomplete',
      `The restore stopped: ${error.message}. What was restored so far is whole and stays; make room or set right what is wrong, and run it again.`,
      { details: { reason: error.code, ...so }, cause: error },
    );
  return error;
};

/** Behind the last entry there are zeros, then nothing, and all of it together is what was signed. */
export const provenEnd = async (window: TarWindow, from: number, until: number): Promise<void> => {
  for await (const piece of window.pieces(from, until))
    if (piece.some((byte) => byte !== 0)) throw badArchive('end', 'its tar does not end with zeros');
  await window.finish(until);
};

/** Of one entry that lies behind: only its frames are fetched. */
export const readAgain = async <T>(
  archive: Archive,
  entry: Entry,
  signal: AbortSignal | undefined,
  use: (reader: ReturnType<typeof entryReader>) => Promise<T>,
): Promise<T> => {
  const { table } = archive;
  const until = table.at(entry.offset + Math.max(entry.length, 1) - 1) + 1;
  const feed = chosenFrames(archive, { from: table.at(entry.offset), until, wanted: () => true }, signal);
  try {
    return await use(entryReader(tarWindow(feed)));
  } finally {
    await feed.close();
  }
};

interface Kept {
  /** What could not be backed up must not be taken for something that was not there. */
  paths: ReadonlySet<string>;
  /** Their parents: of a folder that was not listed whole, nothing is known. */
  folders: ReadonlySet<string>;
}
const NOTHING_KEPT: Kept = { paths: new Set(), folders: new Set() };
const keptPaths = async (manifest: ManifestStore): Promise<Kept> => {
  const paths = new Set<string>();
  for await (const { path } of manifest.errors()) paths.add(path.toString('latin1'));
  return { paths: new Set([...paths, ...leftOutOf(manifest.header)]), folders: paths };
};

/** Of the first line: folders that the backup was to leave out, such as that of the archives themselves. */
const leftOutOf = ({ left_out: paths }: ManifestStore['header']): string[] =>
  Array.isArray(paths)
    ? paths.flatMap((path) => (typeof path === 'string' ? [Buffer.from(path).subarray(1).toString('latin1')] : []))
    : [];

/** Modes of the folders above the entry at hand, for those that have to be made though they are not restored themselves. Their paths are all
 *  beginnings of the innermost one's, which alone is kept. */
const ancestors = () => {
  let innermost: Buffer = EMPTY;
  const above: { end: number; mode: number }[] = [];
  return {
    pass: ({ kind, path, mode }: Entry): void => {
      if (kind !== 'directory' || isRoot(path)) return;
      for (let last = above.at(-1); last && !isBelow(path, innermost.subarray(0, last.end)); last = above.at(-1))
        above.pop();
      innermost = path;
      above.push({ end: path.length, mode });
    },
    modeOf: (path: Buffer): number => {
      const known = innermost.subarray(0, path.length).equals(path) && above.find(({ end }) => end === path.length);
      // Sticky stays: in a folder for all, nobody removes what is another's. And who restores must get into it.
      return known ? (known.mode & 0o1777) | 0o700 : 0o755;
    },
  };
};

const FATAL = new Set(['ENOSPC', 'EDQUOT', 'EROFS', 'EMFILE', 'ENFILE', 'ENOMEM', 'EIO']);
const isFatal = (error: unknown): boolean => {
  if (error instanceof AegisError) return error.code !== 'backups.bad_archive';
  return !(error instanceof SystemError) || FATAL.has(error.code);
};

const explained = ({ kind }: Entry, error: unknown, owners: boolean): string | undefined => {
  if (!(error instanceof SystemError)) return undefined;
  if ((kind === 'character' || kind === 'block') && !owners)
    return 'is a device node: those are restored by root with --owners only';
  if (error.code === 'EISDIR') return 'a folder stands in its place: remove it, or use --delete';
  if (error.code === 'ELOOP' || error.code === 'ENOTDIR')
    return 'something that is no folder (a symlink, perhaps) stands in place of a folder on the way to it, and is not followed';
  return undefined;
};

const EMPTY = Buffer.alloc(0);
const SLASH = Buffer.from('/');
const joined = (above: Buffer, path: readonly Buffer[]): Buffer =>
  Buffer.concat([above, ...path.flatMap((name, at) => (at === 0 ? [name] : [SLASH, name]))]);
