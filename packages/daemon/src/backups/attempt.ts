import { join } from 'node:path';
import { signStatement, statementBytes } from '@aegis/archive/backup/statement';
import type { Envelope } from '@aegis/protocol/access/dsse';
import type { KeyPair } from '@aegis/protocol/access/keys';
import type { Work } from '@aegis/protocol/backups/config';
import { type RunGrant, SealedCredentials } from '@aegis/protocol/backups/node-endpoints';
import { objectNames } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import * as z from 'zod/mini';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { Logger } from '../platform/log.ts';
import type { ArchiveJob, SpooledPart } from './archive-job.ts';
import type { Archiver } from './archiver.ts';
import { type Throttle, throttle } from './bandwidth.ts';
import { runHook } from './hooks.ts';
import { firstPartBytes } from './part-sizes.ts';
import type { Archived, BackupsRepository, RunRow } from './repository.ts';
import type { RunDoor } from './run-door.ts';
import type { RunTeller } from './run-progress.ts';
import { s3Door } from './s3-door.ts';
import { s3Objects } from './s3-objects.ts';
import { credentialSigner, type S3Signer } from './s3-signer.ts';
import { type Destination, freshFolder, toBucket } from './to-bucket.ts';
import { toFolder } from './to-folder.ts';

/** One attempt of a run: leave of the server → hooks → archive and its upload → statement. Each step is in the journal before what depends on it
 *  is done. */

export interface AttemptOptions {
  node: { uid: string; name: string };
  signing: KeyPair;
  /** Opens what was sealed to this node. */
  unseal(text: string): Buffer;
  spool: string;
  /** Where running hooks are noted. */
  hookNotes: string;
  repository: BackupsRepository;
  journal: Pick<Journal, 'group' | 'lazily'>;
  archiver: Archiver;
  limits: { partBytes: number; spoolParts: number; parallelParts: number; retryMs: number; stallMs: number };
  clock: Clock;
  random: () => number;
  faults: FaultPoints;
  log: Logger;
}

export interface AttemptContext {
  run: RunRow;
  door: RunDoor;
  teller: RunTeller;
  /** What is known of the last good run of the configuration. */
  last: { archiveBytes: number; files: number; bytes: number } | null;
  env: Readonly<Record<string, string>>;
  signal: AbortSignal;
}
export interface Completed {
  archived: Archived;
  statement: Envelope;
  state: 'completed' | 'completed_with_errors';
  /** Of an `after` hook that failed. */
  reason: { code: 'backups.hook_failed'; message: string } | null;
}

export const attemptFolder = (spool: string, { id, attempt }: Pick<RunRow, 'id' | 'attempt'>): string =>
  join(spool, id, String(attempt));

/** @throws AegisError backups.*, or the signal's reason */
export const carryOut = async (options: AttemptOptions, context: AttemptContext): Promise<Completed> => {
  const { run, door, teller } = context;
  const { repository, journal } = options;
  const { body, generation, trigger, scheduledAt } = run.start;
  const startedAt = isoTime(options.clock.now());
  const asked = {
    run_id: run.id,
    config_id: run.configId,
    generation,
    attempt: run.attempt,
    trigger,
    ...(scheduledAt === null ? {} : { scheduled_at: scheduledAt }),
  };
  const resumed = run.stage === 'archived' ? run.state.archived : null;
  const grant = await door.start(asked);
  teller.known();
  if (grant.cancelled) throw new AegisError('backups.cancelled', 'The backup was cancelled.');
  refuseOtherPlace(grant.prefix, options, run);
  if (resumed && grant.prefix !== run.state.prefix)
    throw new AegisError(
      'backups.lost',
      'The server gives another place for what was begun: the archive is made again.',
    );
  if (!resumed) {
    Object.assign(run.state, { prefix: grant.prefix, conditionalWrites: grant.conditional_writes });
    await journal.group('backup-granted', () => repository.putRun(run));
    for (const hook of body.work.hooks.before) {
      teller.phase('before');
      const { argv, output } = await runHook(hook, { ...context, notes: options.hookNotes });
      teller.log('info', `before: '${argv[0]}' went well`, output === '' ? undefined : { output });
    }
  }

  // What fails in here ends the rest of it: the thread, and every request that is under way.
  const own = new AbortController();
  const signal = AbortSignal.any([context.signal, own.signal]);
  const { destination, close } = await openDestination(options, { ...context, signal }, grant);
  try {
    const archived = resumed
      ? await resume(destination, resumed, teller)
      : await create(options, { ...context, signal }, { destination, grant, startedAt });
    teller.phase('finishing');
    const reason = await runAfter(context, archived, options.hookNotes);
    const state = archived.totals.errors > 0 || reason ? 'completed_with_errors' : 'completed';
    const names = objectNames(body.work.encryption.recipients.length > 0);
    const statement = signStatement(
      {
        format: 'aegis-backup-1',
        run_id: run.id,
        config_id: run.configId,
        node_uid: options.node.uid,
        attempt: run.attempt,
        prefix: grant.prefix,
        started_at: startedAt,
        finished_at: isoTime(options.clock.now()),
        state,
        encrypted: body.work.encryption.recipients.length > 0,
        archive: { name: names.archive, ...archived.archive },
        manifest: { name: names.manifest, ...archived.manifest },
        totals: archived.totals,
      },
      options.signing,
    );
    await destination.finish(statementBytes(statement));
    return { archived, statement, state, reason };
  } finally {
    own.abort(new AegisError('backups.cancelled', 'The attempt is over.'));
    await close();
  }
};

/** What lies in an attempt's folder before it begins is removed, so that folder has to be its own and nobody else's, whatever the server says. */
const refuseOtherPlace = (prefix: string, { node }: AttemptOptions, run: RunRow): void => {
  const own = `${node.uid}/${run.configId}/${run.id}/${run.attempt}/`;
  const { destination } = run.start.body.work;
  const above = destination.kind === 's3' && destination.prefix !== '' ? `${destination.prefix}/` : '';
  if (prefix === `${above}${own}`) return;
  throw new AegisError(
    'backups.bad_destination',
    'The server gives a place for this backup that is not its own: nothing is written there. Find out who answers for the server, or give server and node the same release.',
  );
};

/** Where the archives of this configuration are, each of which would have all those before it in it. */
const ownFolder = (destination: Work['destination'], prefix: string): string[] =>
  destination.kind === 'file' ? [join(destination.path, prefix, '../..')] : [];

const resume = (destination: Destination, archived: Archived, teller: RunTeller): Promise<Archived> => {
  teller.log('info', 'the archive was spooled whole before the restart: what is left of it is uploaded');
  countArchived(teller, archived);
  teller.phase('uploading');
  return destination.resume(archived);
};

const countArchived = (teller: RunTeller, { totals, archive }: Archived): void =>
  teller.counts({ files: totals.files, bytes: totals.bytes, errors: totals.errors, archive_bytes: archive.bytes });

const create = async (
  options: AttemptOptions,
  { run, teller, last, signal }: AttemptContext,
  { destination, grant, startedAt }: { destination: Destination; grant: RunGrant; startedAt: string },
): Promise<Archived> => {
  const { work, name } = run.start.body;
  const job: ArchiveJob = {
    kind: 'archive',
    sources: work.sources,
    excludes: work.exclude,
    leaveOut: [options.spool, ...ownFolder(work.destination, grant.prefix)],
    level: work.compression.level,
    recipients: work.encryption.recipients,
    header: {
      run_id: run.id,
      attempt: run.attempt,
      config_id: run.configId,
      config: name,
      node_uid: options.node.uid,
      node: options.node.name,
      started_at: startedAt,
      sources: work.sources,
      tags: work.tags,
    },
    maxArchiveBytes: Math.min(work.limits.archive_bytes ?? grant.max_bytes, grant.max_bytes),
    estimate: last && last.files > 0 ? { files: last.files, bytes: last.bytes } : null,
    output: destination.output,
  };
  // Parts may come before anybody takes them.
  const early: [SpooledPart, boolean][] = [];
  let takePart = (part: SpooledPart, isLast: boolean): void => void early.push([part, isLast]);
  teller.phase('scanning');
  const archiving = options.archiver(job, {
    part: (part, isLast) => takePart(part, isLast),
    progress: ({ phase, files, bytes, archiveBytes, errors, path, filesTotal, bytesTotal }) => {
      if (phase !== teller.current().phase) teller.phase(phase);
      teller.counts({
        files,
        bytes,
        errors,
        archive_bytes: archiveBytes,
        path: path.slice(0, 4096),
        ...(filesTotal === undefined ? {} : { files_total: Math.max(filesTotal, files) }),
        ...(bytesTotal === undefined ? {} : { bytes_total: Math.max(bytesTotal, bytes) }),
      });
    },
    signal,
  });
  archiving.done.then(
    (archived) => {
      countArchived(teller, archived);
      teller.phase('uploading');
    },
    () => undefined,
  );
  try {
    return await destination.store(archiving, {
      onPart: (take) => {
        takePart = take;
        for (const [part, isLast] of early.splice(0)) take(part, isLast);
      },
    });
  } finally {
    await archiving.end(); // an upload that failed does not wait for the thread, which still writes
  }
};

/** The archive is made, whatever they do: one that fails is told with it. */
const runAfter = async (
  { run, teller, env, signal }: AttemptContext,
  archived: Archived,
  notes: string,
): Promise<Completed['reason']> => {
  let reason: Completed['reason'] = null;
  const state = archived.totals.errors > 0 ? 'completed_with_errors' : 'completed';
  for (const hook of run.start.body.work.hooks.after) {
    teller.phase('after');
    try {
      await runHook(hook, { env: { ...env, AEGIS_STATE: state }, signal, notes });
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof AegisError)) throw error;
      teller.log('warning', `after: ${error.message}`);
      reason ??= { code: 'backups.hook_failed', message: error.message };
    }
  }
  return reason;
};

const openDestination = async (
  options: AttemptOptions,
  { run, door, teller, last, signal }: AttemptContext,
  grant: RunGrant,
): Promise<{ destination: Destination; close(): Promise<void> }> => {
  const { body } = run.start;
  const { work } = body;
  const names = objectNames(work.encryption.recipients.length > 0);
  const uploaded = (bytes: number): void => teller.uploaded(bytes);
  if (work.destination.kind === 'file') {
    const segments = grant.prefix.split('/').filter((segment) => segment !== '');
    const destination = toFolder({
      run,
      root: work.destination.path,
      segments,
      names,
      uploaded,
      faults: options.faults,
    });
    return { destination, close: () => destination.clear() };
  }
  const { limits, clock, random, faults, log } = options;
  const folder = attemptFolder(options.spool, run);
  if (run.stage !== 'archived') await freshFolder(folder);
  const s3 = s3Door({ ca: work.destination.ca, stallMs: limits.stallMs });
  const limit: Throttle = throttle(work.bandwidth, clock);
  const signer = signerFor(options, { run, door, grant });
  const objects = s3Objects({ door: s3, signer, retryMs: limits.retryMs, clock, random, faults, log, signal });
  const destination = toBucket({
    run,
    repository: options.repository,
    journal: options.journal,
    door,
    objects,
    keys: {
      archive: `${grant.prefix}${names.archive}`,
      manifest: `${grant.prefix}${names.manifest}`,
      statement: `${grant.prefix}${names.statement}`,
    },
    folder,
    firstPartBytes: firstPartBytes(limits.partBytes, last?.archiveBytes ?? 0),
    aheadParts: limits.spoolParts,
    parallelParts: limits.parallelParts,
    throttle: limit,
    uploaded,
    signal,
  });
  return { destination, close: async () => s3.close() };
};

/** In the server's ways each request; else by a credential that is opened in memory, and asked for anew when it expires. */
const signerFor = (
  { unseal, clock }: AttemptOptions,
  { run, door, grant }: { run: RunRow; door: RunDoor; grant: RunGrant },
): S3Signer => {
  const { destination } = run.start.body.work;
  if (destination.kind !== 's3' || destination.access === 'signed' || destination.access === 'presigned')
    return { sign: (wanted) => door.sign(run.id, wanted), stale: () => undefined };
  let first: string | null = grant.sealed_credentials;
  return credentialSigner({
    destination,
    now: clock.now,
    fetch: async () => {
      const { body: _body, ...start } = run.start;
      const again = {
        run_id: run.id,
        config_id: run.configId,
        generation: start.generation,
        attempt: run.attempt,
        trigger: start.trigger,
        ...(start.scheduledAt === null ? {} : { scheduled_at: start.scheduledAt }),
      };
      const sealed = first ?? (await door.start(again)).sealed_credentials;
      first = null;
      return openCredentials(sealed, unseal);
    },
  });
};

export const openCredentials = (sealed: string | null, unseal: (text: string) => Buffer): SealedCredentials => {
  const why =
    'The server gave no credential that this node can open: see that both are of the same release, and that the node was not enrolled anew.';
  if (sealed === null) throw new AegisError('backups.unsupported', why);
  const opened = unseal(sealed);
  try {
    return z.parse(SealedCredentials, JSON.parse(opened.toString('utf8')));
  } catch {
    throw new AegisError('backups.unsupported', why); // without the cause: it could quote the credential
  } finally {
    opened.fill(0);
  }
};
