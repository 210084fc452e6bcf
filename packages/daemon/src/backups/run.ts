import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { RunEnd } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import { isoTime, pause } from '../platform/clock.ts';
import type { HttpClient } from '../platform/http/client.ts';
import { type AttemptOptions, type Completed, carryOut } from './attempt.ts';
import type { Held } from './desired.ts';
import { cancelled, failureOf, outOfTime, type RunFailure, Stopping } from './failure.ts';
import { runHook } from './hooks.ts';
import type { Archived, RunRow } from './repository.ts';
import { runDoor } from './run-door.ts';
import { type RunTeller, runTeller } from './run-progress.ts';

/** One run from its turn to its end: attempts, the pauses between them, its time, and what is said when it is over. */

export interface RunOptions extends AttemptOptions {
  client: HttpClient;
  /** The configuration as it is now. */
  heldOf(configId: string): Held | undefined;
  lastOf(configId: string): { archiveBytes: number; files: number; bytes: number } | null;
}

export interface ActiveRun {
  readonly row: RunRow;
  readonly teller: RunTeller;
  cancel(): void;
  /** Null: the daemon stopped it, and goes on with it at its next start. */
  readonly ended: Promise<RunEnd | null>;
}

const MAX_ATTEMPTS = 1000;
/** The server holds another generation of the configuration: it is on its way here. */
const GENERATION_MS = 2000;
const GENERATION_TRIES = 30;
const OTHER_GENERATION: readonly string[] = ['backups.stale_generation', 'backups.generation_conflict'];

/** @param stopping aborts when the daemon stops */
export const startRun = (row: RunRow, options: RunOptions, stopping: AbortSignal): ActiveRun => {
  const { repository, journal, clock, random, log } = options;
  const over = new AbortController();
  const onStop = (): void => over.abort(new Stopping());
  stopping.addEventListener('abort', onStop, { once: true });
  if (stopping.aborted) onStop();
  const cancel = (): void => over.abort(cancelled());
  const { signal } = over;
  const { retryMs } = options.limits;
  const door = runDoor({ client: options.client, random, clock, retryMs, signal });
  const teller = runTeller({ runId: row.id, door, onCancel: cancel, onOver: (error) => over.abort(error), clock, log });

  const begunAt = clock.monotonic();
  const spentBefore = row.state.spentMs;
  const spent = (): number => Math.round(spentBefore + clock.monotonic() - begunAt);
  const limitSec = row.start.body.work.limits.run_sec;
  const limitTimer = after(limitSec * 1000 - spentBefore, () => over.abort(outOfTime(limitSec)));
  const environment = (): Record<string, string> => ({
    AEGIS_RUN_ID: row.id,
    AEGIS_CONFIG: row.start.body.name,
    AEGIS_CONFIG_ID: row.configId,
    AEGIS_NODE: options.node.name,
    AEGIS_TRIGGER: row.start.trigger,
    AEGIS_ATTEMPT: String(row.attempt),
    AEGIS_STATE: 'running',
  });

  /** By the configuration as it is now; what was uploaded of the last attempt is the server's to remove. */
  const nextAttempt = async (): Promise<void> => {
    const held = options.heldOf(row.configId);
    if (!held?.body)
      throw new AegisError(
        'backups.not_assigned',
        'The configuration was taken off this node: this run has nothing more to do.',
      );
    if (row.attempt >= MAX_ATTEMPTS)
      throw new AegisError('backups.limit', `A run has at most ${MAX_ATTEMPTS} attempts.`);
    row.attempt++;
    row.stage = 'started';
    Object.assign(row.start, { generation: held.row.generation, body: held.body });
    Object.assign(row.state, { prefix: null, uploads: {}, archived: null, spentMs: spent() });
    await journal.group('backup-attempt', () => {
      repository.removeParts(row.id);
      repository.putRun(row);
    });
  };

  const attempts = async (): Promise<Completed> => {
    let generations = 0;
    for (;;) {
      signal.throwIfAborted();
      if (row.stage !== 'archived') await nextAttempt();
      teller.attempt(row.attempt);
      try {
        const context = { run: row, door, teller, last: options.lastOf(row.configId), env: environment(), signal };
        return await carryOut(options, context);
      } catch (error) {
        if (signal.aborted) throw error;
        const failure = failureOf(error);
        if (failure.code === 'backups.sign_refused' && (await isCancelled())) throw cancelled();
        if (OTHER_GENERATION.includes(failure.code) && generations++ < GENERATION_TRIES) {
          row.attempt--; // the server has not heard of it
          await pause(GENERATION_MS, signal);
          continue;
        }
        if (!failure.passing || row.state.failures >= row.start.body.work.retries.max) throw error;
        await rest(failure, error);
      }
    }
  };
  /** A run that was cancelled gets no more signatures: that may be heard before the cancel itself. */
  const isCancelled = async (): Promise<boolean> => {
    try {
      return (await door.progress(row.id, teller.current())).cancelled;
    } catch {
      return false; // then it failed for what it was told
    }
  };
  const rest = async (failure: RunFailure, error: unknown): Promise<void> => {
    const { backoff_sec: first, max } = row.start.body.work.retries;
    row.stage = 'started';
    row.state.failures++;
    row.state.spentMs = spent();
    // First: on a full disk the journal has no room before the spool is gone.
    await clearSpool(options, row);
    await journal.group('backup-failed', () => repository.putRun(row));
    const bound = Math.min(first * 1000 * 2 ** (row.state.failures - 1), 86_400_000);
    const pauseMs = bound / 2 + (random() * bound) / 2;
    log.debug({ err: error, run: row.id }, 'the attempt failed');
    teller.log(
      'warning',
      `attempt ${row.attempt} failed, ${row.state.failures} of ${max} more begins in ${Math.round(pauseMs / 1000)} s: ${failure.message}`,
      { code: failure.code },
    );
    teller.phase('retrying', failure.message);
    await pause(pauseMs, signal);
  };

  const ending = (change: Pick<RunEnd, 'state' | 'reason' | 'statement'>, archived: Archived | null): RunEnd => ({
    attempt: Math.max(1, row.attempt),
    finished_at: isoTime(clock.now()),
    duration_ms: spent(),
    totals: archived?.totals ?? null,
    archive_bytes: archived?.archive.bytes ?? 0,
    uploaded_bytes: teller.current().uploaded_bytes,
    errors: (archived?.errors ?? []).map(({ path, code, message }) => ({
      path: path.slice(0, 4096),
      code: code.slice(0, 64),
      message: message.slice(0, 1000),
    })),
    ...change,
  });
  const failed = async (error: unknown): Promise<RunEnd> => {
    const failure = failureOf(signal.aborted ? signal.reason : error);
    const state = failure.code === 'backups.cancelled' ? 'cancelled' : 'failed';
    if (failure.code === 'http.internal') log.error({ err: error, run: row.id }, 'a backup failed within the daemon');
    teller.log(state === 'failed' ? 'error' : 'warning', failure.message, { code: failure.code });
    const env = { ...environment(), AEGIS_STATE: state, AEGIS_REASON: failure.code, AEGIS_MESSAGE: failure.message };
    for (const hook of row.start.body.work.hooks.on_failure)
      await runHook(hook, { env, signal: stopping, notes: options.hookNotes }).catch((cause: unknown) =>
        teller.log('warning', `on_failure: ${failureOf(cause).message}`),
      );
    const { code, message } = failure;
    return ending({ state, reason: { code, message }, statement: null }, row.state.archived);
  };

  const whole = async (): Promise<RunEnd | null> => {
    let end: RunEnd;
    try {
      const { state, statement, archived, reason } = await attempts();
      end = ending({ state, statement, reason }, archived);
    } catch (error) {
      if (signal.aborted && signal.reason instanceof Stopping) return null;
      await clearSpool(options, row); // as above: on a full disk the end could not be journaled
      end = await failed(error);
      if (stopping.aborted && end.state === 'failed' && signal.reason instanceof Stopping) return null;
    }
    await patiently(
      () => journal.group('backup-ended', () => repository.endRun(row.id, end.attempt, end)),
      options,
      stopping,
    );
    row.stage = 'ended';
    await clearSpool(options, row);
    return end;
  };

  const ended = whole()
    .catch((error: unknown) => {
      // The journal does not work: the row stays as it is, and the next start goes on with it.
      log.error({ err: error, run: row.id }, 'cannot journal how a backup ended');
      return null;
    })
    .finally(async () => {
      limitTimer();
      stopping.removeEventListener('abort', onStop);
      await teller.stop();
    });
  return { row, teller, cancel, ended };
};

/** What cannot be cleared away is left to the next attempt, or to the next start: it holds up no run's end. */
const clearSpool = async ({ spool, log }: RunOptions, { id }: RunRow): Promise<void> => {
  try {
    await rm(join(spool, id), { recursive: true, force: true, maxRetries: 3 });
  } catch (error) {
    log.warn({ err: error, run: id }, 'cannot clear the spool of a backup');
  }
};

/** A full disk must not make a run that is over run again. */
const patiently = async (act: () => Promise<unknown>, { log }: RunOptions, signal: AbortSignal): Promise<void> => {
  for (;;) {
    try {
      await act();
      return;
    } catch (error) {
      if (signal.aborted) throw error;
      log.error({ err: error }, 'cannot journal how a backup ended, trying again');
      await pause(5000, signal);
    }
  }
};

const LONGEST_MS = 2 ** 31 - 1;
/** A timer that may be longer than Node.js's own. */
const after = (ms: number, act: () => void): (() => void) => {
  let timer: NodeJS.Timeout;
  const wait = (left: number): void => {
    timer = setTimeout(
      () => (left > LONGEST_MS ? wait(left - LONGEST_MS) : act()),
      Math.min(Math.max(left, 0), LONGEST_MS),
    );
  };
  wait(ms);
  return () => clearTimeout(timer);
};
