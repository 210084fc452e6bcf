import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { type Identity, parseIdentities } from '@aegis/archive/backup/age/keys';
import type { ByteSource } from '@aegis/archive/backup/bytes';
import { openBackup } from '@aegis/archive/backup/restore/open';
import { openStatement } from '@aegis/archive/backup/statement';
import type { SignedRequest } from '@aegis/protocol/backups/node-endpoints';
import { objectNames, type RunObject } from '@aegis/protocol/backups/run';
import { AegisError, isErrorCode } from '@aegis/protocol/errors';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import { systemClock } from '../platform/clock.ts';
import { silentLog } from '../platform/log.ts';
import { fileSource, openFolder } from './folder-destination.ts';
import type { FromRestore, RestoreJob, ToRestore } from './restore-job.ts';
import { s3Door } from './s3-door.ts';
import { s3Objects } from './s3-objects.ts';
import type { S3Signer } from './s3-signer.ts';

/** The thread that restores: fetches, verifies, unpacks and writes, so that commands never wait for it. Requests to S3 are signed outside. */

const MAX_STATEMENT_BYTES = 1024 * 1024;
const PROGRESS_MS = 1000;
const MAX_LISTED = 100;

/** A run's objects, wherever they lie. */
interface Store extends Disposable {
  statement(): Promise<Buffer>;
  open(object: Exclude<RunObject, 'statement'>, size: number): ByteSource;
}

export const restore = async (
  job: RestoreJob,
  tell: (message: FromRestore) => void,
  onTold: (take: (message: ToRestore) => void) => void,
): Promise<void> => {
  const aborted = new AbortController();
  const { signal } = aborted;
  const signer = outsideSigner(tell);
  onTold((message) => {
    if (message.type === 'abort') aborted.abort(new AegisError('backups.cancelled', 'The restore was cancelled.'));
    else signer.answered(message);
  });
  const names = objectNames(job.encrypted);
  using store = job.from.kind === 's3' ? inBucket(job.from, names, signer, signal) : inFolder(job.from, names);
  const identities: readonly Identity[] = job.identities === null ? [] : parseIdentities(job.identities);
  const trusted = new Map(job.trusted.map(([id, raw]) => [id, Buffer.from(raw, 'base64')]));
  const statement = await store.statement();
  const { statement: stated } = openStatement(statement, trusted);
  if (stated.run_id !== job.runId)
    throw new AegisError(
      'backups.bad_statement',
      `What lies there as run ${job.runId} is signed as another one (${stated.run_id}): it is not used. Find out who put it there.`,
    );
  await using backup = await openBackup({
    archive: store.open('archive', stated.archive.bytes),
    manifest: store.open('manifest', stated.manifest.bytes),
    statement,
    trustedNodeKeys: trusted,
    identities,
    spoolDir: job.spoolDir,
    signal,
  });
  const result = await backup.restore({
    target: job.target,
    paths: job.paths,
    overwrite: job.overwrite,
    dryRun: job.dryRun,
    deleteExtra: job.deleteExtra,
    owners: job.owners,
    setuid: job.setuid,
    signal,
    progressMs: PROGRESS_MS,
    onProgress: ({ entries, entriesTotal, bytes, archiveBytes, errors, path }) =>
      tell({
        type: 'progress',
        progress: {
          entries,
          entries_total: entriesTotal,
          bytes,
          archive_bytes: archiveBytes,
          errors,
          path: path.toString('utf8'),
        },
      }),
  });
  tell({
    type: 'done',
    done: {
      restored: result.restored,
      skipped: result.skipped,
      deleted: result.deleted,
      bytes: result.bytes,
      error_count: result.errorCount,
      errors: result.errors
        .slice(0, MAX_LISTED)
        .map(({ path, code, message }) => ({ path: path.toString('utf8'), code, message })),
      archive_verified: result.archiveVerified,
    },
  });
};

/** Asks the daemon, which holds what it takes. */
const outsideSigner = (
  tell: (message: FromRestore) => void,
): S3Signer & { answered(message: Exclude<ToRestore, { type: 'abort' }>): void } => {
  const asked = new Map<number, PromiseWithResolvers<SignedRequest>>();
  let next = 0;
  return {
    sign: (wanted) => {
      const answer = Promise.withResolvers<SignedRequest>();
      asked.set(++next, answer);
      tell({ type: 'sign', id: next, wanted });
      return answer.promise;
    },
    stale: () => tell({ type: 'stale' }),
    answered: (message) => {
      const answer = asked.get(message.id);
      asked.delete(message.id);
      if (message.type === 'signed') answer?.resolve(message.signed);
      else answer?.reject(new AegisError(isErrorCode(message.code) ? message.code : 'http.internal', message.message));
    },
  };
};

type Names = Readonly<Record<RunObject, string>>;

const inBucket = (
  { prefix, ca, retryMs, stallMs }: Extract<RestoreJob['from'], { kind: 's3' }>,
  names: Names,
  signer: S3Signer,
  signal: AbortSignal,
): Store => {
  const door = s3Door({ ca: ca ?? undefined, stallMs });
  const objects = s3Objects({
    door,
    signer,
    retryMs,
    clock: systemClock,
    random: Math.random,
    faults: noFaultPoints,
    log: silentLog(),
    signal,
  });
  return {
    statement: () => objects.small(`${prefix}${names.statement}`, MAX_STATEMENT_BYTES),
    open: (object, size) => objects.source(`${prefix}${names[object]}`, size),
    [Symbol.dispose]: () => door.close(),
  };
};

const inFolder = ({ root, segments }: Extract<RestoreJob['from'], { kind: 'file' }>, names: Names): Store => {
  const folder = openFolder(root, segments, { make: false });
  const gone = (): AegisError =>
    new AegisError(
      'backups.unknown_object',
      `The run's files are not below ${root}: see that the destination is mounted, and the run not removed.`,
    );
  if (!folder) throw gone();
  const open: number[] = [];
  const openFile = (object: RunObject): number => {
    try {
      const fd = openSync(folder.at(names[object]), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
      open.push(fd);
      if (fstatSync(fd).isFile()) return fd;
    } catch {
      // told below
    }
    throw gone();
  };
  return {
    statement: async () => {
      const fd = openFile('statement');
      if (fstatSync(fd).size > MAX_STATEMENT_BYTES)
        throw new AegisError('backups.bad_statement', 'What lies in place of the statement is too large to be one.');
      return readFileSync(fd);
    },
    open: (object, size) => {
      const fd = openFile(object);
      if (fstatSync(fd).size !== size)
        throw new AegisError(
          'backups.bad_archive',
          `The ${object} has ${fstatSync(fd).size} bytes, and ${size} by its statement: it was altered.`,
        );
      return fileSource(fd, size);
    },
    [Symbol.dispose]: () => {
      for (const fd of open) closeSync(fd);
      folder[Symbol.dispose]();
    },
  };
};
