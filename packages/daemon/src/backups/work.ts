import { randomBytes } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Envelope } from '@aegis/protocol/access/dsse';
import type { KeyPair } from '@aegis/protocol/access/keys';
import { openSealed } from '@aegis/protocol/access/sealed-box';
import type { RunEnd } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import { uuidv7Generator } from '@aegis/protocol/ids';
import { type Clock, isoTime, pause } from '../platform/clock.ts';
import { endLeftHooks } from '../platform/hook-process.ts';
import { backoff } from '../platform/http/backoff.ts';
import type { HttpClient } from '../platform/http/client.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { Logger } from '../platform/log.ts';
import { threadArchiver } from './archiver.ts';
import { type DesiredVerdict, desiredState } from './desired.ts';
import { removeRun } from './folder-destination.ts';

import { reportLoop } from './report-loop.ts';
import { type BackupsState, backupsRepository, type RunRow } from './repository.ts';
import { type RestoreRequest, restoreHere } from './restore.ts';
import type { ActiveRun } from './run.ts';
import { runner as runnerOf, type Waiting } from './runner.ts';
import { scheduleLoop } from './schedule-loop.ts';
import type { Tell } from './service.ts';
import type { BackupsStatus, BackupView } from './view.ts';

/** The part of backups that a node without any does not load: desired → scheduled → run → reported, put together. */

export interface BackupsLimits {
  maxConfigs: number;
  maxConcurrent: number;
  partBytes: number;
  spoolParts: number;
  parallelParts: number;
  retryMs: number;
  stallMs: number;
}

export interface WorkOptions {
  dataDir: string;
  node: { uid: string; name: string };
  keys: { signing: KeyPair; sealing: KeyPair };
  nativeDir: string | undefined;
  journal: Journal;
  state: BackupsState;
  client: HttpClient;
  /** Whether this node obeys a directive of desired state. */
  verify(envelope: Envelope): DesiredVerdict;
  limits: BackupsLimits;
  clock: Clock;
  random: () => number;
  faults: FaultPoints;
  log: Logger;
  signal: AbortSignal;
}

export type BackupsWork = Awaited<ReturnType<typeof backupsWork>>;

/** For its answer to the end of a run, by who asked for that run: it may be away. */
const HEARD_MS = 10_000;

export const backupsWork = async (options: WorkOptions) => {
  const { node, keys, journal, client, limits, clock, random, faults, log, signal } = options;
  const repository = backupsRepository(journal);
  const spool = join(options.dataDir, 'backups', 'spool');
  const rows = repository.runs();
  await sweepSpool(spool, rows);
  const hookNotes = join(options.dataDir, 'backups', 'hooks');
  endLeftHooks(hookNotes);
  const sealingSecret = Buffer.from(String(keys.sealing.privateKey.export({ format: 'jwk' }).d), 'base64url');
  const unseal = (text: string): Buffer => openSealed(text, sealingSecret);
  const newId = uuidv7Generator(clock.now);

  const desired = desiredState({
    repository,
    state: options.state,
    journal,
    verify: options.verify,
    maxConfigs: limits.maxConfigs,
    clock,
    log,
  });
  const runner = runnerOf({
    node,
    signing: keys.signing,
    unseal,
    spool,
    hookNotes,
    repository,
    journal,
    archiver: threadArchiver({ nativeDir: options.nativeDir }),
    limits,
    clock,
    random,
    faults,
    log,
    client,
    heldOf: (configId) => desired.held.get(configId),
    rows,
    maxConcurrent: limits.maxConcurrent,
    newId,
    onEnd: (row, end) => {
      const fields = { run: row.id, config: row.start.body.name, state: end.state, archive_bytes: end.archive_bytes };
      if (end.state === 'failed')
        log.error({ ...fields, code: end.reason?.code }, `a backup failed: ${end.reason?.message}`);
      else log.info(fields, 'a backup ended');
      reports.ended(row);
      schedule.kick();
    },
    signal,
  });
  const schedule = scheduleLoop({
    nodeUid: node.uid,
    desired,
    runner,
    repository,
    journal,
    onChange: () => reports.configs(),
    clock,
    log,
    signal,
  });
  const reports = reportLoop({
    client,
    desired,
    nextRunMs: schedule.nextRunMs,
    repository,
    journal,
    waiting: rows.filter((row) => row.stage === 'ended' || row.forget.length > 0),
    refused: (row, error) => anotherAttempt(row, error),
    told: (row) => asking.get(row)?.(null),
    forget: async (row) => {
      for (const one of row.forget) forgetOne(one);
    },
    backoff: backoff({ random }),
    log,
    signal,
  });

  /** Who asked for a run, and waits for the server to have its end (null), or to want another attempt. */
  const asking = new Map<RunRow, (again: Waiting | null) => void>();
  const orLate = (answer: Promise<Waiting | null>, until: readonly AbortSignal[]): Promise<Waiting | null> => {
    const over = new AbortController();
    const late = pause(HEARD_MS, AbortSignal.any([...until, over.signal])).then(() => null);
    return Promise.race([answer, late]).finally(() => over.abort());
  };
  /** What the server finds missing is made again, as often as the configuration allows. */
  const anotherAttempt = async (row: RunRow, error: AegisError): Promise<void> => {
    row.state.failures++;
    log.error({ run: row.id, code: error.code }, `the server does not take a backup for complete: ${error.message}`);
    if (row.state.failures > row.start.body.work.retries.max) {
      const { code, message } = error;
      const was = row.ending;
      if (!was) return;
      const end: RunEnd = {
        ...was,
        state: 'failed',
        statement: null,
        reason: { code, message: message.slice(0, 2000) },
      };
      await journal.group('backup-ended', () => repository.endRun(row.id, end.attempt, end));
      row.ending = end;
      reports.ended(row);
      return;
    }
    await journal.group('backup-reopened', () => repository.reopenRun(row));
    Object.assign(row, { stage: 'started', ending: null });
    const again = runner.again(row);
    asking.get(row)?.(again);
  };

  /** Where a `file` destination is, its configuration says, or that of a run of it. */
  const forgetOne = ({ config_id: configId, run_id: runId }: RunRow['forget'][number]): void => {
    const body = desired.held.get(configId)?.body ?? runner.last.get(configId)?.start.body;
    if (body?.work.destination.kind !== 'file') return;
    try {
      faults.at('daemon.before-store.backup-forget');
      removeRun(body.work.destination.path, [node.uid, configId], runId);
      faults.at('daemon.after-store.backup-forget');
      log.info({ config: body.name, run: runId }, 'removed a backup that is not kept any longer');
    } catch (error) {
      log.error({ err: error, config: body.name, run: runId }, 'cannot remove a backup that is not kept any longer');
    }
  };

  /** To its end, told of as far as who asked reads. */
  const followed = async (row: RunRow, run: ActiveRun | null, tell: Tell): Promise<RunEnd> => {
    let telling: Promise<void> = Promise.resolve();
    let behind = false;
    const deaf = run?.teller.listen((progress) => {
      // A listener that does not read gets the newest when it does.
      if (behind) return;
      behind = true;
      telling = tell({ type: 'progress', run_id: row.id, ...progress }).finally(() => {
        behind = false;
      });
    });
    const end = (await run?.ended) ?? null;
    deaf?.();
    await telling;
    if (!end)
      throw new AegisError(
        'http.unavailable',
        `The daemon stops; the run ${row.id} goes on at its next start. See 'aegis backups runs'.`,
      );
    return end;
  };
  const endLine = (row: RunRow, end: RunEnd) => ({
    type: 'run',
    run_id: row.id,
    state: end.state,
    reason: end.reason,
    totals: end.totals,
    archive_bytes: end.archive_bytes,
    duration_ms: end.duration_ms,
    errors: end.errors,
  });

  const views = (): BackupView[] =>
    [...desired.held.values()].flatMap(({ row, body }) => {
      if (!row.present) return [];
      const active = runner.active.get(row.configId);
      const last = runner.last.get(row.configId);
      const refusal = desired.refusals.get(row.configId);
      const nextMs = schedule.nextRunMs(row.configId);
      return [
        {
          config_id: row.configId,
          name: body?.name ?? '',
          generation: row.generation,
          paused: body?.paused ?? false,
          schedule: body?.work.schedule?.cron ?? null,
          timezone: body?.work.schedule?.timezone ?? null,
          next_run_at: nextMs === null ? null : isoTime(nextMs),
          running: active
            ? {
                run_id: active.row.id,
                trigger: active.row.start.trigger,
                attempt: active.row.attempt,
                progress: active.teller.current(),
              }
            : null,
          last: last?.ending
            ? {
                run_id: last.id,
                state: last.ending.state,
                finished_at: last.ending.finished_at,
                archive_bytes: last.ending.archive_bytes,
                errors: last.ending.totals?.errors ?? 0,
                reason: last.ending.reason,
                waiting: last.stage === 'ended',
              }
            : null,
          refusal: refusal ? { generation: refusal.generation, code: refusal.code, message: refusal.message } : null,
        },
      ];
    });

  await desired.prune();
  let resentAt = clock.monotonic();
  return {
    start: (): void => {
      runner.start();
      schedule.kick();
      reports.start();
      reports.configs();
    },
    reached: (): void => reports.configs(),
    take: async (directives: readonly unknown[]): Promise<void> => {
      if (!(await desired.take(directives))) return;
      schedule.kick();
      reports.configs();
    },
    run: async (name: string, tell: Tell, asker: AbortSignal): Promise<void> => {
      const held = desired.named(name);
      if (!held)
        throw new AegisError(
          'backups.unknown_config',
          `No backup configuration '${name}' is assigned to this node. See 'aegis backups configs list --node ${node.name}'.`,
        );
      if (signal.aborted) throw new AegisError('http.unavailable', 'The daemon stops: ask again when it is back.');
      const added = await runner.add(held, { trigger: 'request', scheduledMs: null });
      const { row } = added;
      const cancel = (): void => runner.cancel(row);
      asker.addEventListener('abort', cancel, { once: true });
      if (asker.aborted) cancel();
      try {
        await tell({ type: 'progress', run_id: row.id, ...waitingProgress(clock) });
        for (let attempt: Waiting | null = added; attempt; ) {
          const settled = new Promise<Waiting | null>((resolve) => asking.set(row, resolve));
          const end = await followed(row, await attempt.started.promise, tell);
          // What the server does not take is not told as good. One that is away is not waited for any longer.
          attempt = await orLate(settled, [asker, signal]);
          if (!attempt) await tell(endLine(row, row.ending ?? end));
        }
      } finally {
        asking.delete(row);
        asker.removeEventListener('abort', cancel);
      }
    },
    restore: async (request: RestoreRequest, tell: Tell, asker: AbortSignal): Promise<void> => {
      const until = AbortSignal.any([asker, signal]);
      const giveBack = await runner.borrow(until);
      try {
        const context = { tell, signal: until };
        await restoreHere(
          request,
          { client, signing: keys.signing, unseal, nativeDir: options.nativeDir, spool, newId, limits, clock, random },
          context,
        );
      } finally {
        giveBack();
      }
    },
    status: (): BackupsStatus => ({
      configs: [...desired.held.values()].filter(({ row }) => row.present).length,
      running: runner.active.size,
      queued: runner.waiting(),
      unreported: reports.unreported(),
      failed: views()
        .filter(({ last }) => last?.state === 'failed')
        .map(({ name }) => name),
    }),
    views,
    /** Hourly: forgets old tombstones, and tells everything again to a server that may have been restored from a backup. */
    tidy: async (): Promise<void> => {
      await desired.prune();
      if (clock.monotonic() - resentAt < 1_800_000) return;
      resentAt = clock.monotonic();
      reports.configs();
    },
    stopped: async (): Promise<void> => {
      await Promise.all([runner.stopped(), schedule.stopped(), reports.stopped()]);
      sealingSecret.set(randomBytes(sealingSecret.length));
    },
  };
};

const waitingProgress = (clock: Clock) => ({
  phase: 'waiting',
  attempt: 1,
  files: 0,
  bytes: 0,
  archive_bytes: 0,
  uploaded_bytes: 0,
  errors: 0,
  at: isoTime(clock.now()),
});

/** What lies in the spool of no run that goes on with it. */
const sweepSpool = async (spool: string, rows: readonly RunRow[]): Promise<void> => {
  await mkdir(spool, { recursive: true, mode: 0o700 });
  const kept = new Set(rows.filter(({ stage }) => stage === 'archived').map(({ id }) => id));
  for (const name of readdirSync(spool))
    if (!kept.has(name)) await rm(join(spool, name), { recursive: true, force: true });
};
