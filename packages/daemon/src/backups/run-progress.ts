import type { RunPhase, RunProgress } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { Logger } from '../platform/log.ts';
import type { LogLine, RunDoor } from './run-door.ts';

/** How far a run is, told to the server and to whoever listens here, about each second and only while something changes; with its log lines. None
 *  of it is worth keeping: what counts is in the journal. The server's answer may be that the run was cancelled. */

type Counts = Pick<RunProgress, 'files' | 'bytes' | 'archive_bytes' | 'errors'> &
  Partial<Pick<RunProgress, 'files_total' | 'bytes_total' | 'path'>>;

export interface RunTeller {
  /** @param reason of 'retrying' */
  phase(phase: RunPhase, reason?: string): void;
  counts(counts: Counts): void;
  uploaded(bytes: number): void;
  attempt(attempt: number): void;
  log(level: LogLine['level'], message: string, metadata?: Record<string, unknown>): void;
  current(): RunProgress;
  /** Called with each new state, at most once a second. */
  listen(take: (progress: RunProgress) => void): () => void;
  /** From the first grant on the server knows the run. */
  known(): void;
  stop(): Promise<void>;
}

const TICK_MS = 1000;
/** Said again when nothing changes, so that the server does not take the run for lost. */
const AGAIN_MS = 20_000;
const MAX_LINES = 200;
const LINES_AT_ONCE = 100;
/** What the server says of a run that it does not want to hear of any more. */
const OVER: readonly string[] = ['backups.run_ended', 'backups.unknown_run'];

export const runTeller = ({
  runId,
  door,
  onCancel,
  onOver,
  clock,
  log,
}: {
  runId: string;
  door: RunDoor;
  onCancel(): void;
  onOver(error: AegisError): void;
  clock: Clock;
  log: Logger;
}): RunTeller => {
  let progress: Omit<RunProgress, 'at'> = {
    phase: 'waiting',
    attempt: 1,
    files: 0,
    bytes: 0,
    archive_bytes: 0,
    uploaded_bytes: 0,
    errors: 0,
  };
  let lines: LogLine[] = [];
  let dropped = 0;
  let changed = true;
  let known = false;
  let sentAt = Number.NEGATIVE_INFINITY;
  let sending: Promise<void> | null = null;
  let rate: { bytes: number; at: number } = { bytes: 0, at: clock.monotonic() };
  const listeners = new Set<(progress: RunProgress) => void>();
  const set = (change: Partial<typeof progress>): void => {
    progress = { ...progress, ...change };
    changed = true;
  };
  const stamped = (): RunProgress => ({ ...progress, at: isoTime(clock.now()) });

  const send = async (): Promise<void> => {
    sentAt = clock.monotonic();
    try {
      const { cancelled } = await door.progress(runId, stamped());
      if (cancelled) onCancel();
    } catch (error) {
      if (error instanceof AegisError && OVER.includes(error.code)) onOver(error);
      // Else the next one tells the same, and more.
    }
    await sendLines();
  };
  const sendLines = async (): Promise<void> => {
    const some = lines.slice(0, LINES_AT_ONCE);
    if (some.length === 0) return;
    try {
      await door.log(runId, some);
      lines = lines.slice(some.length);
    } catch (error) {
      if (error instanceof AegisError) lines = lines.slice(some.length);
    }
  };
  const tick = (): void => {
    const { phase, bytes, uploaded_bytes } = progress;
    const now = clock.monotonic();
    const moved = phase === 'uploading' ? uploaded_bytes : bytes;
    if (now - rate.at >= 2 * TICK_MS) {
      const perSec = Math.max(0, Math.round(((moved - rate.bytes) * 1000) / (now - rate.at)));
      if (perSec !== progress.bytes_per_sec) set({ bytes_per_sec: perSec });
      rate = { bytes: moved, at: now };
    }
    if (changed) for (const take of listeners) take(stamped());
    if (sending || !known || (!changed && lines.length === 0 && now - sentAt < AGAIN_MS)) return;
    changed = false;
    sending = send().finally(() => {
      sending = null;
    });
  };
  const timer = setInterval(tick, TICK_MS);

  return {
    phase: (phase, reason) => {
      rate = { bytes: phase === 'uploading' ? progress.uploaded_bytes : progress.bytes, at: clock.monotonic() };
      const { reason: _reason, ...rest } = progress;
      progress = rest;
      set({ phase, ...(reason === undefined ? {} : { reason: reason.slice(0, 1000).toWellFormed() }) });
      for (const take of listeners) take(stamped());
    },
    counts: set,
    uploaded: (bytes) => set({ uploaded_bytes: Math.max(0, progress.uploaded_bytes + bytes) }),
    attempt: (attempt) => {
      const { files_total: _files, bytes_total: _bytes, path: _path, ...rest } = progress;
      progress = { ...rest, attempt, files: 0, bytes: 0, archive_bytes: 0, uploaded_bytes: 0, errors: 0 };
      changed = true;
    },
    log: (level, message, metadata) => {
      const fields = { run: runId, ...metadata };
      if (level === 'error') log.error(fields, message);
      else if (level === 'warning') log.warn(fields, message);
      else log.info(fields, message);
      if (lines.length >= MAX_LINES) {
        dropped++;
        lines.pop();
      }
      const text = dropped > 0 ? `${message} (${dropped} lines before this one are missing)` : message;
      lines.push({ at: isoTime(clock.now()), level, message: text.slice(0, 4096), ...(metadata ? { metadata } : {}) });
    },
    current: stamped,
    listen: (take) => {
      listeners.add(take);
      take(stamped());
      return () => listeners.delete(take);
    },
    known: () => {
      known = true;
    },
    stop: async () => {
      clearInterval(timer);
      await sending;
      if (known) await sendLines();
    },
  };
};
