import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { readClaim } from '@aegis/native/execution-folder';
import type { HintKind } from '@aegis/native/launcher';
import type { Envelope } from '@aegis/protocol/access/dsse';
import type { Chunk, NextOffsets, PostedReport, Report, ReportResult, Stream } from '@aegis/protocol/commands/carrier';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import { type Clock, isoTime, pause } from '../platform/clock.ts';
import { backoff } from '../platform/http/backoff.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { Logger } from '../platform/log.ts';
import { endCgroup } from '../platform/process.ts';
import { drainLoop } from './drain-loop.ts';
import { type Execution, executionOf } from './execution.ts';
import { commandsInbox, type InboxOptions } from './inbox.ts';
import type { SpecSettings } from './process-spec.ts';
import { reportLoop } from './report-loop.ts';
import type { CommandsRepository } from './repository.ts';
import { requestSize } from './request-size.ts';
import { launcherKeeper } from './runner/launcher-keeper.ts';
import { commandsRunner } from './runner/runner.ts';
import { spareFolders } from './spare-folders.ts';
import { cgroupSweep, sweepFolders } from './sweep.ts';
import { uploadLane } from './upload-lane.ts';

/** The commands domain put together: inbox → runner → drain → report → freed. Holds the one map of unfinished executions. */

export interface CommandsLimits {
  maxConcurrent: number;
  /** Journalled executions, those included that only wait for the server. */
  maxExecutions: number;
  /** Output of ended executions that waits on disk; nothing new is started beyond it. */
  undeliveredBytes: number;
}

export interface CommandsOptions {
  dataDir: string;
  aegisExec: string;
  bootId: string;
  repository: CommandsRepository;
  journal: Journal;
  access: Pick<InboxOptions, 'verify' | 'markSeen'>;
  carrier: {
    sendReports(reports: readonly PostedReport[]): Promise<ReportResult[]>;
    sendOutput(executionId: string, stream: Stream, offset: number, bytes: Uint8Array): Promise<NextOffsets>;
    sendChunks(commandId: string, executionId: string, chunks: readonly Chunk[]): Promise<NextOffsets>;
  };
  sign(report: Report): Envelope;
  settings: SpecSettings;
  limits: CommandsLimits;
  clock: Clock;
  random: () => number;
  faults: FaultPoints;
  log: Logger;
}

export interface CommandsStatus {
  queued: number;
  running: number;
  /** Ended here, not yet acknowledged by the server. */
  unreported: number;
  undelivered_bytes: number;
  launcher_pid: number | null;
}

export type CommandsService = ReturnType<typeof commandsService>;

const UPLOAD_BUDGET_BYTES = 8 * 1024 * 1024;
const FREE_AGAIN_MS = 5000;
const UPLOAD_BLOCK_BYTES = 4 * 1024 * 1024;

export const commandsService = (options: CommandsOptions) => {
  const { repository, journal, carrier, limits, clock, random, faults, log } = options;
  const root = join(options.dataDir, 'executions');
  mkdirSync(root, { mode: 0o700, recursive: true });
  const live = new Map<string, Execution>();
  /** Bytes of ended executions that wait for the server, by execution. */
  const undelivered = new Map<string, number>();
  let undeliveredBytes = 0;
  const stopping = new AbortController();
  const { signal } = stopping;
  let accepting = true;

  const { cgroup } = options.settings;
  const sweepCgroups =
    cgroup === null ? null : cgroupSweep({ parent: cgroup, isLive: (id) => live.has(id), now: clock.now, log });

  const folders = spareFolders(join(options.dataDir, 'spare'), log);

  const setUndelivered = (execution: Execution, bytes: number): void => {
    undeliveredBytes += bytes - (undelivered.get(execution.id) ?? 0);
    if (bytes > 0) undelivered.set(execution.id, bytes);
    else undelivered.delete(execution.id);
  };

  const lane = uploadLane({
    budgetBytes: UPLOAD_BUDGET_BYTES,
    blockBytes: UPLOAD_BLOCK_BYTES,
    backoff: backoff({ random }),
    signal,
  });
  const size = requestSize(clock);
  const drain = drainLoop({
    root,
    spoolBytes: options.settings.spoolBytes,
    carrier,
    lane,
    size,
    onDrained: (execution) => {
      setUndelivered(execution, 0);
      reports.final(execution);
      runner.startNext();
    },
    log,
    signal,
  });

  const reports = reportLoop({
    send: carrier.sendReports,
    sign: options.sign,
    runningReport: (execution) => {
      const claim = readClaim(join(root, execution.id));
      if (claim?.kind !== 'started') return null;
      const { id, commandId, attempt } = execution;
      return {
        command_id: commandId,
        execution_id: id,
        attempt,
        state: 'running',
        started_at: isoTime(claim.startedAtMs),
      };
    },
    remainder: drain.remainder,
    onSettled: (execution) => free(execution),
    onIncomplete: drain.kick,
    size,
    backoff: backoff({ random }),
    clock,
    log,
    signal,
  });

  /** The server has everything. Should the journal fail here, the report is sent again after the next start. */
  const free = (execution: Execution): void => {
    const { report } = execution;
    if (!report) return;
    setUndelivered(execution, 0);
    journal
      .lazily('free', () => repository.free(execution.id, report))
      .then(
        () => {
          live.delete(execution.id);
          folders.release(join(root, execution.id));
        },
        (error: unknown) => {
          if (signal.aborted) return;
          log.error({ err: error, execution_id: execution.id }, 'cannot free a reported execution yet');
          setTimeout(() => free(execution), FREE_AGAIN_MS).unref();
        },
      );
  };

  const runner = commandsRunner({
    root,
    repository,
    journal,
    settings: options.settings,
    bootId: options.bootId,
    maxConcurrent: limits.maxConcurrent,
    takeSpare: folders.take,
    mayStart: () => accepting && undeliveredBytes < limits.undeliveredBytes,
    askLauncher: (dir) => launcher.start(dir),
    endLeftovers: ({ id }) => {
      if (cgroup !== null) endCgroup(join(cgroup, `exec-${id}`));
    },
    onRunning: reports.running,
    onOutput: drain.kick,
    onEnd: (execution) => {
      const { output } = execution.report ?? {};
      const limit = execution.outputLimitBytes || Number.POSITIVE_INFINITY;
      const kept = (bytes: number): number => Math.min(bytes, limit, options.settings.spoolBytes);
      setUndelivered(execution, output ? kept(output.stdout.bytes) + kept(output.stderr.bytes) : 0);
      drain.kick(execution);
    },
    clock,
    faults,
    log,
  });

  const launcher = launcherKeeper({
    binary: options.aegisExec,
    onHint: (id: string, kind: HintKind, detail: string) => {
      const execution = live.get(id);
      if (execution && !signal.aborted) runner.hint(execution, kind, detail);
    },
    onRestart: () => runner.launcherRestarted(),
    backoff: backoff({ random, firstMs: 100, maxMs: 10_000 }),
    log,
  });

  const inbox = commandsInbox({
    repository,
    journal,
    ...options.access,
    room: () => (accepting ? limits.maxExecutions - live.size : 0),
    handOver: { bootId: options.bootId, slots: () => runner.freeSlots() },
    clock,
    log,
  });

  return {
    /** Takes up what an earlier daemon left, then removes folders that belong to nothing. */
    adopt: (): void => {
      const executions = repository.all().map((row) => executionOf(row, { fresh: false }));
      for (const execution of executions) live.set(execution.id, execution);
      if (executions.length > 0) log.info({ executions: executions.length }, 'taking up what the journal holds');
      runner.add(executions, { adopt: true });
      sweepFolders(root, (id) => live.has(id), log);
    },
    /** Journals offers and answers what may be acknowledged; the executions start on their own. */
    accept: async (offers: readonly unknown[]): Promise<string[]> => {
      const { acknowledge, executions, cancelled } = await inbox.accept(offers);
      const added = executions.map((row) => executionOf(row, { fresh: row.report === null }));
      for (const execution of added) live.set(execution.id, execution);
      runner.add(added);
      if (cancelled.length > 0) {
        const commands = new Set(cancelled);
        for (const execution of [...live.values()]) if (commands.has(execution.commandId)) runner.cancel(execution);
      }
      return acknowledge;
    },
    hasRoom: (): boolean => accepting && live.size < limits.maxExecutions,
    hasBacklog: (): boolean => runner.counts().queued >= limits.maxConcurrent,
    /** Hourly: what a crash or a full disk left behind. */
    tidy: (): void => {
      sweepFolders(root, (id) => live.has(id), log);
      sweepCgroups?.();
      repository.pruneTombstones(clock.now());
    },
    status: (): CommandsStatus => {
      const { queued, running } = runner.counts();
      return {
        queued,
        running,
        unreported: live.size - queued - running,
        undelivered_bytes: undeliveredBytes,
        launcher_pid: launcher.pid() ?? null,
      };
    },
    /** Takes and starts nothing more but cancels. True when all that ran has ended and was reported within the time. */
    drain: async (timeoutMs: number): Promise<boolean> => {
      accepting = false;
      const deadline = clock.monotonic() + timeoutMs;
      const done = (): boolean => live.size === runner.counts().queued;
      while (!accepting && !done() && clock.monotonic() < deadline && !signal.aborted) await pause(50, signal);
      return !accepting && done();
    },
    /** Takes and starts again. */
    undrain: (): void => {
      accepting = true;
      runner.startNext();
    },
    /** Sends what is ready for at most so long, then lets go. Supervisors go on without us. */
    stop: async (flushMs: number): Promise<void> => {
      accepting = false;
      const flushed = new AbortController();
      await Promise.race([reports.idle(), pause(flushMs, flushed.signal)]);
      flushed.abort(); // no timer keeps the process
      runner.stop();
      stopping.abort();
      await launcher.close();
    },
  };
};
