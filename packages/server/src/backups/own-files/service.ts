import { setTimeout as pause } from 'node:timers/promises';
import type { BackupSpec } from '@aegis/protocol/backups/config';
import { MAX_RUN_ERRORS, type RunProgress, type RunReason, type RunTrigger } from '@aegis/protocol/backups/run';
import { AegisError, type ErrorCode } from '@aegis/protocol/errors';
import { type Clock, isoTime } from '../../platform/clock.ts';
import { fewAtATime } from '../../platform/few-at-a-time.ts';
import type { Log } from '../../platform/log.ts';
import type { AfterEnd } from '../after-end.ts';
import { specOf } from '../config-views.ts';
import type { DestinationsRepository, Place } from '../destinations-repository.ts';
import { isFinal } from '../run-refusals.ts';
import { prefixOf } from '../run-views.ts';
import type { RunsService } from '../runs.ts';
import type { RunsRepository } from '../runs-repository.ts';
import type { ConfigRow, RunRow } from '../tables.ts';
import type { OwnProgress } from './job.ts';
import type { AttemptResult, OneAttempt } from './one-run.ts';

/** Runs of the server's own files, from their start to their end: progress, cancel, retries, limits of time. A run that a crash or a stop of
 *  the server cut off has failed, and says so. */

const AT_ONCE = 2;
const PROGRESS_EVERY_MS = 2000;
/** Another server process, on the same database, says something of its runs more often than this. */
const DEAD_AFTER_MS = 120_000;
const NODE_NAME = 'server';
/** Trying again changes nothing of these. */
const FINAL_CODES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'backups.bad_config',
  'backups.bad_recipient',
  'backups.no_source',
  'backups.limit',
  'backups.timeout',
  'backups.cancelled',
]);

export const ownRunsService = (on: {
  runs: RunsRepository;
  destinations: DestinationsRepository;
  began: Pick<RunsService, 'begin'>;
  attempt: OneAttempt;
  keyId: () => string;
  after: AfterEnd;
  clock: Clock;
  newId: () => string;
  log: Log;
}) => {
  const { runs, clock, log } = on;
  const few = fewAtATime(AT_ONCE);
  let closing = false;
  const active = new Map<string, { controller: AbortController; done: Promise<void> }>();

  const placeOf = async (run: RunRow): Promise<Place> => {
    const place = await on.destinations.byId(run.destination_id);
    if (!place) throw new AegisError('http.internal', 'The destination of a configuration is not there.');
    return place;
  };
  const store = async (run: RunRow, change: Partial<RunRow>): Promise<void> => {
    const stored = await runs.write('backups.own-end', async (tx) => {
      const row = await runs.lock(tx, run.id);
      if (!row || isFinal(row.state)) return null;
      const now = clock.now();
      const whole = { heard_at: now, finished_at: now, progress: null, silent_since: null, ...change };
      await runs.update(tx, run.id, whole);
      await on.after.inTransaction(tx, { ...row, ...whole });
      return { ...row, ...whole };
    });
    if (stored) on.after.afterwards(stored);
  };
  const endGood = (run: RunRow, place: Place, { archive, manifest, totals, errors, statement }: AttemptResult) => {
    const { destination } = place;
    const days = destination.kind === 's3' ? destination.object_lock_days : undefined;
    return store(run, {
      state: totals.errors > 0 ? 'completed_with_errors' : 'completed',
      archive_bytes: archive.bytes,
      uploaded_bytes: archive.bytes + manifest.bytes,
      totals: JSON.stringify(totals),
      errors: JSON.stringify(errors.slice(0, MAX_RUN_ERRORS).map(storableError)),
      statement: JSON.stringify(statement),
      reason: null,
      locked_until: days === undefined ? null : clock.now() + days * 86_400_000,
    });
  };
  const endBadly = (run: RunRow, reason: RunReason) =>
    store(run, {
      state: reason.code === 'backups.cancelled' ? 'cancelled' : 'failed',
      reason: JSON.stringify({ ...reason, message: storable(reason.message).slice(0, 2000) }),
    });

  /** Another attempt goes to a prefix of its own. */
  const advance = async (run: RunRow, spec: BackupSpec): Promise<RunRow> => {
    const attempt = run.attempt + 1;
    const prefix = prefixOf(spec.destination, { nodeUid: null, configId: run.config_id, runId: run.id, attempt });
    const change = { attempt, prefix, attempt_started_at: clock.now(), heard_at: clock.now(), progress: null };
    await runs.write('backups.own-attempt', (tx) => runs.update(tx, run.id, change));
    return { ...run, ...change };
  };
  /** At most so often; and whether somebody cancelled it. */
  const teller = (run: RunRow, controller: AbortController) => {
    let toldAt = Number.NEGATIVE_INFINITY;
    let last: { progress: OwnProgress | null; uploaded: number } = { progress: null, uploaded: 0 };
    /** Null: as it was. */
    return (fresh: OwnProgress | null, sent: number): void => {
      if (fresh) last = { progress: fresh, uploaded: sent };
      const { progress, uploaded } = last;
      const now = clock.now();
      if (now - toldAt < PROGRESS_EVERY_MS) return;
      toldAt = now;
      const { phase = 'waiting', files = 0, bytes = 0, archiveBytes = 0, errors = 0, path } = progress ?? {};
      const said: RunProgress = {
        phase,
        attempt: run.attempt,
        files,
        bytes,
        archive_bytes: archiveBytes,
        uploaded_bytes: uploaded,
        errors,
        ...(path === undefined ? {} : { path: storable(path).slice(0, 4096).toWellFormed() }),
        at: isoTime(now),
      };
      runs
        .write('backups.own-progress', async (tx) => {
          const row = await runs.lock(tx, run.id);
          if (!row || isFinal(row.state)) return;
          if (row.cancelled_at !== null) controller.abort(cancelled());
          await runs.update(tx, run.id, {
            state: 'running',
            heard_at: now,
            progress: JSON.stringify(said),
            archive_bytes: archiveBytes,
            uploaded_bytes: uploaded,
          });
        })
        .catch((err: unknown) =>
          log.warn({ run_id: run.id, err }, "the progress of a backup of the server's own was not stored"),
        );
    };
  };

  const work = async (first: RunRow, spec: BackupSpec, controller: AbortController): Promise<void> => {
    const limit = setTimeout(
      () =>
        controller.abort(
          new AegisError(
            'backups.timeout',
            `The run took longer than the ${spec.limits.run_sec} s that it may (limits.run_sec).`,
          ),
        ),
      Math.min(spec.limits.run_sec * 1000, 2 ** 31 - 1),
    );
    limit.unref();
    const { signal } = controller;
    let run = first;
    try {
      for (let tries = 0; ; tries++) {
        const tell = teller(run, controller);
        // While nothing is packed it is told that the run goes on, and heard whether it was cancelled.
        const beat = setInterval(() => tell(null, 0), PROGRESS_EVERY_MS * 2);
        try {
          const place = await placeOf(run);
          const result = await few(() => {
            signal.throwIfAborted();
            return on.attempt(run, spec, place, { progress: tell, signal });
          });
          return await endGood(run, place, result);
        } catch (error) {
          const failure = signal.aborted ? signal.reason : error;
          const reason = reasonOf(failure);
          if (signal.aborted || FINAL_CODES.has(reason.code as ErrorCode) || tries >= spec.retries.max)
            return await endBadly(run, reason);
          log.warn({ run_id: run.id, err: error }, "a backup of the server's own files failed; it is tried again");
          await pause(spec.retries.backoff_sec * 1000 * 2 ** tries, undefined, { signal }).catch(() => undefined);
          if (signal.aborted) return await endBadly(run, reasonOf(signal.reason));
          run = await advance(run, spec);
        } finally {
          clearInterval(beat);
        }
      }
    } finally {
      clearTimeout(limit);
    }
  };

  return {
    /** Begins a run, and does not wait for its end. @throws AegisError backups.unsupported, busy, limit */
    start: async (config: ConfigRow, trigger: RunTrigger, scheduledMs: number | null): Promise<RunRow> => {
      if (closing)
        throw new AegisError('http.unavailable', 'The server is stopping. Send the request again in a few seconds.');
      const spec = specOf(config);
      if (spec.execution_mode !== 'server')
        throw new AegisError(
          'backups.unsupported',
          `'${config.name}' is carried out by nodes. Start it there: 'aegis backups run ${config.name} --node NODE'.`,
        );
      const id = on.newId();
      const run = await runs.write('backups.own-start', async (tx) => {
        const underWay = await tx
          .selectFrom('backups_runs')
          .select('id')
          .where('config_id', '=', config.id)
          .where('state', '=', 'running')
          .executeTakeFirst();
        if (underWay)
          throw new AegisError(
            'backups.busy',
            `'${config.name}' is being carried out (run ${underWay.id}). Wait, or cancel that run.`,
          );
        return on.began.begin(tx, { uid: null, name: NODE_NAME, keyId: on.keyId() }, config, {
          run_id: id,
          config_id: config.id,
          generation: config.revision,
          attempt: 1,
          trigger,
          ...(scheduledMs === null ? {} : { scheduled_at: isoTime(scheduledMs) }),
        });
      });
      const controller = new AbortController();
      const done = work(run, spec, controller)
        .catch((err: unknown) =>
          log.error({ run_id: id, err }, "the end of a backup of the server's own files was not stored"),
        )
        .finally(() => active.delete(id));
      active.set(id, { controller, done });
      return run;
    },
    /** Runs that nobody carries out any more have failed. */
    endAbandoned: async (): Promise<void> => {
      for (const { id, node_uid, heard_at } of await runs.underWay()) {
        if (node_uid !== null || active.has(id) || clock.now() - heard_at < DEAD_AFTER_MS) continue;
        const run = await runs.byId(id);
        if (run) await endBadly(run, stopped());
      }
    },
    /** Ends what is under way, and waits for that. */
    close: async (): Promise<void> => {
      closing = true;
      for (const { controller } of active.values()) controller.abort(stoppedError());
      await Promise.all([...active.values()].map(({ done }) => done));
    },
  };
};
export type OwnRunsService = ReturnType<typeof ownRunsService>;

const cancelled = (): AegisError => new AegisError('backups.cancelled', 'The backup was cancelled.');
const stopped = (): RunReason => ({
  code: 'backups.lost',
  message: 'The server was stopped while it made this backup.',
});
const stoppedError = (): AegisError => new AegisError('backups.lost', stopped().message);
const reasonOf = (error: unknown): RunReason =>
  error instanceof AegisError
    ? { code: error.code, message: error.message }
    : {
        code: 'http.internal',
        message: `It failed unexpectedly: ${error instanceof Error ? error.message : String(error)}`,
      };
/** As any database takes it: names of files, and so not a reason to lose the record. */
const storable = (text: string): string => text.replaceAll('\0', '\uFFFD').toWellFormed();
const storableError = ({ path, code, message }: { path: string; code: string; message: string }) => ({
  path: storable(path).slice(0, 4096),
  code,
  message: storable(message).slice(0, 1000),
});
