/** create-archive: makes a backup: sources → tar → zstd frames → age → sink, and the manifest beside it (docs/backup-format.md). Called by the
 *  daemon's backups in a worker thread, and by the server for its own files. Reading is synchronous (asynchronous reads take more than
 *  half as long again) and packing runs in libuv's thread pool, so that the thread is busy but yields once a frame.
 *  Invariant: memory is bounded whatever the sizes; the result is restorable by stock tar, zstd and age; what could not be read, or
 *  changed meanwhile, is listed and never ends the run. Must not: know destinations, network or database. */
import { createHash } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { setImmediate } from 'node:timers/promises';
import { type FileCalls, fileCalls, STAT } from '@aegis/native/files';
import { AegisError } from '@aegis/protocol/errors';
import { type FaultPoints, noFaultPoints } from '@aegis/protocol/fault-points';
import { ageEncrypter } from './age/encrypt.ts';
import { entryArchiver } from './archive-entry.ts';
import { type ByteSink, release } from './bytes.ts';
import { frameWriter } from './frames.ts';
import { hardLinks } from './hard-links.ts';
import { manifestWriter } from './manifest/write.ts';
import { type Owners, ownersOf } from './owners.ts';
import { type Progress, type RunProgress, runProgress } from './run-progress.ts';
import { Scan } from './scan.ts';
import type { EntryKind, Selection } from './select/selection.ts';
import type { Problem } from './source-problem.ts';
import { field } from './source-stat.ts';
import { END_BYTES } from './tar-header.ts';

export interface CreateOptions {
  /** Absolute. */
  sources: readonly Buffer[];
  select: Selection;
  /** Of zstd, 1–19. */
  level: number;
  /** age's; none: not encrypted. */
  recipients: readonly string[];
  /** Final bytes, encrypted where there are recipients. */
  archive: ByteSink;
  manifest: ByteSink;
  /** Fields of the manifest's first line. */
  header: Readonly<Record<string, unknown>>;
  /** @throws backups.limit when the archive gets longer, before more than that was written */
  maxArchiveBytes?: number;
  signal?: AbortSignal;
  onProgress?(progress: Progress): void;
  /** Default 1000. */
  progressMs?: number;
  clock: { now(): number };
  /** For the progress: what is known from the last run, or `count` to look at everything first (three hundredths of the run, where all of it is in the page cache). */
  estimate?: { files: number; bytes: number } | 'count';
  /** Frames of 4 MiB that are packed at a time, each three times as much memory. Default: processors and one. */
  framesAhead?: number;
  owners?: Owners;
  files?: FileCalls;
  faults?: FaultPoints;
}

export interface ListedError {
  /** Relative to `/`; what is not UTF-8 replaced. */
  path: string;
  code: string;
  message: string;
}

export interface CreateResult {
  archive: { bytes: number; sha256: string };
  manifest: { bytes: number; sha256: string };
  totals: {
    /** Names of regular files, each hard link too. */
    files: number;
    directories: number;
    others: number;
    /** Of the files, as read: holes and second names not counted. */
    bytes: number;
    tarBytes: number;
    errors: number;
  };
  /** The first 100. All are in the manifest. */
  errors: ListedError[];
}

export const MOST_LISTED_ERRORS = 100;
const PROGRESS_MS = 1000;
/** Names between two looks at the event loop while counting. */
const COUNTED_AT_A_TIME = 2000;

/** @throws AegisError backups.limit, backups.no_source, backups.bad_recipient; what a sink throws; the signal's reason */
export const createArchive = async (options: CreateOptions): Promise<CreateResult> => {
  const { sources, select, recipients, signal, faults = noFaultPoints, files = fileCalls() } = options;
  const progress = runProgress({
    onProgress: options.onProgress,
    progressMs: options.progressMs ?? PROGRESS_MS,
    clock: options.clock,
  });
  const output = archiveOutput(options, progress);
  const manifest = manifestWriter(options.manifest, { header: options.header, recipients });
  const framed: [tarBytes: number, packedBytes: number][] = [];
  const frames = frameWriter({
    level: options.level,
    ahead: options.framesAhead ?? availableParallelism() + 1,
    write: async (packed, tarBytes) => {
      await output.push(packed);
      framed.push([tarBytes, packed.length]);
      faults.at('backups.frame_written');
    },
  });
  const errors: ListedError[] = [];
  let path: Buffer = Buffer.alloc(0);
  const onProblem = (problem: Problem): void | Promise<void> => {
    progress.counts.errors += 1;
    const { code, message } = problem;
    if (errors.length < MOST_LISTED_ERRORS) errors.push({ path: problem.path.toString('utf8'), code, message });
    return manifest.error({ path: problem.path, code, message });
  };
  const add = entryArchiver({
    files,
    frames,
    manifest,
    owners: options.owners ?? ownersOf(),
    links: hardLinks(),
    onProblem,
    onBytes: (count) => {
      signal?.throwIfAborted();
      progress.counts.bytes += count;
      progress.tick(path);
    },
    onEntry: (kind) => count(progress, kind),
  });
  const tellFrames = async (): Promise<void> => {
    for (const [tarBytes, packedBytes] of framed.splice(0)) await manifest.frame(tarBytes, packedBytes);
  };

  try {
    signal?.throwIfAborted();
    const estimate = options.estimate === 'count' ? await countSources(options, files, progress) : options.estimate;
    progress.archiving(estimate);
    await output.begin();
    using scan = new Scan({ files, sources, select, openFiles: true });
    for (let next = scan.next(); next; next = scan.next()) {
      signal?.throwIfAborted();
      path = next.path;
      if (framed.length > 0) await tellFrames();
      const waiting = next.type === 'problem' ? onProblem(next) : add(next);
      if (waiting) await waiting;
      progress.tick(path);
    }
    if (scan.sourcesRead === 0) throw noSource(errors);
    await frames.zeros(END_BYTES);
    await frames.end();
    await tellFrames();
    const archive = await output.end();
    faults.at('backups.archive_written');
    const described = await manifest.end({ tar_bytes: frames.tarBytes, archive });
    faults.at('backups.manifest_written');
    const { archiveBytes: _inArchive, ...totals } = progress.counts;
    return { archive, manifest: described, totals: { ...totals, tarBytes: frames.tarBytes }, errors };
  } finally {
    await frames.abandon();
  }
};

/** Final bytes: encrypted, counted, hashed, and given to the sink. */
const archiveOutput = (
  { recipients, archive, maxArchiveBytes = Number.POSITIVE_INFINITY, signal }: CreateOptions,
  { counts }: RunProgress,
) => {
  const age = recipients.length > 0 ? ageEncrypter(recipients) : null;
  const hash = createHash('sha256');
  const write = async (pieces: readonly Buffer[]): Promise<void> => {
    for (const piece of pieces) {
      signal?.throwIfAborted();
      if (counts.archiveBytes + piece.length > maxArchiveBytes) throw tooLong(maxArchiveBytes);
      hash.update(piece);
      counts.archiveBytes += piece.length;
      await archive.write(piece);
      if (age) release(piece);
    }
  };
  return {
    begin: () => write(age ? [age.header] : []),
    push: (packed: Buffer) => write(age ? age.push(packed) : [packed]),
    end: async () => {
      await write(age ? age.end() : []);
      return { bytes: counts.archiveBytes, sha256: hash.digest('hex') };
    },
  };
};

const count = ({ counts }: RunProgress, kind: EntryKind): void => {
  if (kind === 'file') counts.files += 1;
  else if (kind === 'directory') counts.directories += 1;
  else counts.others += 1;
};

/** Looks at everything once, opening directories only. Its problems are told by the run itself. */
export const countSources = async (
  { sources, select, signal }: Pick<CreateOptions, 'sources' | 'select' | 'signal'>,
  files: FileCalls,
  progress: RunProgress,
): Promise<{ files: number; bytes: number }> => {
  using scan = new Scan({ files, sources, select, openFiles: false });
  let turns = 0;
  for (let next = scan.next(); next; next = scan.next()) {
    if (++turns % COUNTED_AT_A_TIME === 0) await setImmediate();
    signal?.throwIfAborted();
    if (next.type === 'problem') continue;
    count(progress, next.kind);
    if (next.kind === 'file')
      progress.counts.bytes += Math.min(field(next.stat, STAT.size), field(next.stat, STAT.blocks) * 512);
    progress.tick(next.path);
  }
  return { files: progress.counts.files, bytes: progress.counts.bytes };
};

const tooLong = (most: number) =>
  new AegisError(
    'backups.limit',
    `The archive would get longer than ${most} bytes: raise limits.archive_bytes, or exclude something.`,
    { details: { archive_bytes: most } },
  );

const noSource = (errors: readonly ListedError[]) =>
  new AegisError(
    'backups.no_source',
    `None of the sources can be read: ${errors[0] ? `/${errors[0].path} ${errors[0].message}` : 'there are none'}.`,
    { details: { errors: errors.slice(0, 10) } },
  );
