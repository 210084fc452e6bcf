import { join } from 'node:path';
import {
  cancelExecution,
  createExecutionFolder,
  type ExecutionStatus,
  listSegments,
  readStatus,
  voidClaim,
} from '@aegis/native/execution-folder';
import type { HintKind } from '@aegis/native/launcher';
import { type Report, RunBody } from '@aegis/protocol/commands/carrier';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import * as z from 'zod/mini';
import { type Clock, isoTime } from '../../platform/clock.ts';
import type { Journal } from '../../platform/journal/journal.ts';
import type { Logger } from '../../platform/log.ts';
import { errnoOf } from '../../platform/process.ts';
import type { Execution } from '../execution.ts';
import { reportOfLoss, reportOfNoStart, reportOfStatus } from '../final-report.ts';
import { processSpec, type SpecSettings } from '../process-spec.ts';
import { executionQueue } from '../queue.ts';
import type { CommandsRepository } from '../repository.ts';
import { decideNext, type NextStep, viewFolder } from './adoption.ts';

/** Starts what waits, follows what runs, ends what is cancelled. Each execution leaves through `onEnd` once, with a report that
 *  the journal holds or the supervisor's status file. Hints say when to look; a timer looks anyway while something runs, and no timer stands when nothing does. */

export interface RunnerOptions {
  root: string;
  repository: CommandsRepository;
  journal: Journal;
  settings: SpecSettings;
  bootId: string;
  maxConcurrent: number;
  /** False while too many bytes wait for the server. */
  mayStart(): boolean;
  askLauncher(dir: string): void;
  /** A folder that served before, to be used up. */
  takeSpare(): string | undefined;
  /** Nobody watches a lost execution's processes any more: they must not go on beside another attempt. */
  endLeftovers(execution: Execution): void;
  onRunning(execution: Execution): void;
  onOutput(execution: Execution): void;
  onEnd(execution: Execution): void;
  clock: Clock;
  faults: FaultPoints;
  log: Logger;
}

export type Runner = ReturnType<typeof commandsRunner>;

const LOOK_MS = 1000;
/** For executions of an earlier daemon, of which no hints come. */
const ADOPTED_LOOK_MS = 100;
const ASK_AGAIN_MS = 5000;
const CANCEL_AGAIN_MS = 50;
const JOURNAL_AGAIN_MS = 2000;
const MAX_WAIT_MS = 60_000; // wall time may jump, so a scheduled start is looked at this often at least

export const commandsRunner = (options: RunnerOptions) => {
  const { root, repository, journal, settings, bootId, maxConcurrent, clock, faults, log } = options;
  const queue = executionQueue();
  const active = new Map<string, Execution>();
  const askedAt = new Map<string, number>();
  let timer: NodeJS.Timeout | null = null;
  let dueTimer: NodeJS.Timeout | null = null;
  let lastFullLook = 0;
  let stopped = false;

  const dirOf = (execution: Execution): string => join(root, execution.id);
  const fields = (execution: Execution) => ({ command_id: execution.commandId, execution_id: execution.id });

  const leave = (execution: Execution): void => {
    execution.phase = 'ended';
    active.delete(execution.id);
    askedAt.delete(execution.id);
    queue.remove(execution.id);
  };

  /** The supervisor's status is on disk and stays there until the server has everything: it needs no commit of ours, and
   *  another daemon would make the same report of it. */
  const finish = (execution: Execution, status: ExecutionStatus): void => {
    if (execution.phase === 'ended') return;
    leave(execution);
    execution.report = reportOfStatus(execution, status);
    options.onEnd(execution);
    startNext();
  };

  /** An end that nothing but the journal knows: told only after the commit, however long that takes to find room. */
  const end = (execution: Execution, report: Report): void => {
    if (execution.phase === 'ended') return;
    leave(execution);
    const store = (): void => {
      journal
        .group('final', () => repository.setReport(execution.id, report))
        .then(
          () => {
            execution.report = report;
            options.onEnd(execution);
          },
          (error: unknown) => {
            if (stopped) return;
            log.error({ err: error, ...fields(execution) }, 'cannot journal how a command ended, trying again');
            setTimeout(store, JOURNAL_AGAIN_MS).unref();
          },
        );
    };
    store();
    startNext();
  };

  let starting = false;
  const startNext = (): void => {
    if (starting) return; // an expired one ends within `begin`, which comes back here
    starting = true;
    try {
      while (!stopped && active.size < maxConcurrent && options.mayStart()) {
        const execution = queue.take(clock.now());
        if (!execution) break;
        begin(execution);
      }
    } finally {
      starting = false;
    }
    armTimers();
  };

  const begin = (execution: Execution): void => {
    if (execution.expiresAtMs <= clock.now() || execution.cancelAsked) {
      stepSafely(execution);
      return;
    }
    execution.phase = 'starting';
    execution.hinted = true;
    active.set(execution.id, execution);
    if (execution.handedBoot === bootId) {
      handOver(execution);
      return;
    }
    // It had to wait for its turn. Durable before the start: after a power cut nothing else may be left that tells of it.
    journal
      .group('handed', () => repository.setHanded(execution.id, bootId))
      .then(
        () => {
          execution.handedBoot = bootId;
          if (!stopped && execution.phase === 'starting') handOver(execution);
        },
        (error: unknown) => cannotStart(execution, error),
      );
  };

  const handOver = (execution: Execution): void => {
    let dir: string;
    try {
      const body = z.parse(RunBody, repository.bodyOf(execution.id));
      const { spec, stdin } = processSpec(execution, body, settings);
      dir = createExecutionFolder(root, execution.id, spec, stdin, options.takeSpare());
    } catch (error) {
      cannotStart(execution, error);
      return;
    }
    execution.begun = true;
    ask(execution, dir);
    // The mark is for a folder that somebody removes while no daemon is there.
    journal
      .lazily('begun', () => repository.setBegun(execution.id))
      .catch((error: unknown) =>
        log.warn({ err: error, ...fields(execution) }, 'cannot journal that a command was started'),
      );
  };

  const ask = (execution: Execution, dir: string): void => {
    askedAt.set(execution.id, clock.monotonic());
    faults.at('daemon.before-start');
    options.askLauncher(dir);
    faults.at('daemon.after-start');
  };

  const cannotStart = (execution: Execution, error: unknown): void => {
    if (stopped || execution.phase === 'ended') return;
    const noRoom =
      (error instanceof AegisError && error.code.startsWith('journal.')) ||
      ['ENOSPC', 'EDQUOT', 'EMFILE', 'ENFILE'].includes(errnoOf(error) ?? '');
    if (noRoom) {
      log.error({ err: error, ...fields(execution) }, 'no room to start a command, trying again');
      execution.phase = 'queued';
      active.delete(execution.id);
      setTimeout(() => {
        if (stopped || execution.phase !== 'queued') return;
        queue.add(execution);
        startNext();
      }, JOURNAL_AGAIN_MS).unref();
      return;
    }
    const code = error instanceof AegisError ? error.code : 'commands.start_failed';
    const message = error instanceof Error ? error.message : 'The command could not be prepared.';
    end(execution, reportOfNoStart(execution, 'failed', { code, message }, clock.now()));
  };

  /** Looks at the folder and does what it says. */
  const step = (execution: Execution): void => {
    if (execution.phase === 'ended') return;
    const known = {
      handedBoot: execution.handedBoot,
      begun: execution.begun,
      cancelAsked: execution.cancelAsked,
      expired: execution.expiresAtMs <= clock.now() && execution.phase === 'queued',
    };
    apply(execution, decideNext(known, viewFolder(dirOf(execution)), bootId));
  };

  const apply = (execution: Execution, next: NextStep): void => {
    if (next.do === 'finish') finish(execution, next.status);
    else if (next.do === 'lost') {
      log.warn(fields(execution), next.why);
      options.endLeftovers(execution);
      const written = writtenBytes(dirOf(execution));
      end(execution, reportOfLoss(execution, next.startedAtMs, written, next.why, clock.now()));
    } else if (next.do === 'given-up') giveUp(execution, next.as);
    else if (next.do === 'give-up') {
      if (voidClaim(dirOf(execution))) giveUp(execution, next.as);
      else follow(execution); // claimed between the look and now
    } else if (next.do === 'follow') follow(execution);
    else if (execution.phase === 'queued') queue.add(execution);
    else if (execution.begun && clock.monotonic() - (askedAt.get(execution.id) ?? 0) >= ASK_AGAIN_MS)
      ask(execution, dirOf(execution));
  };

  const giveUp = (execution: Execution, as: 'cancelled' | 'expired' | 'failed', why = ''): void => {
    const error =
      as === 'cancelled'
        ? null
        : as === 'expired'
          ? {
              code: 'commands.expired',
              message: `The command's time was over before its turn came on this node (${isoTime(execution.expiresAtMs)}).`,
            }
          : { code: 'commands.start_failed', message: why || 'The supervisor could not be started.' };
    end(execution, reportOfNoStart(execution, as, error, clock.now()));
  };

  const follow = (execution: Execution): void => {
    if (execution.phase === 'ended') return;
    if (execution.phase !== 'running') {
      execution.phase = 'running';
      queue.remove(execution.id);
      active.set(execution.id, execution);
      options.onRunning(execution);
    }
    if (execution.cancelAsked) tellCancel(execution);
    armTimers();
  };

  const tellCancel = (execution: Execution): void => {
    if (!cancelExecution(dirOf(execution))) setTimeout(() => stepSafely(execution), CANCEL_AGAIN_MS).unref();
  };

  const stepSafely = (execution: Execution): void => {
    if (stopped) return;
    try {
      step(execution);
    } catch (error) {
      log.error({ err: error, ...fields(execution) }, 'cannot look at an execution, trying again');
      // The timer looks at those that are active. Of another one, given up while the disk was full say, nobody else thinks.
      if (active.has(execution.id)) return;
      setTimeout(() => {
        if (execution.phase !== 'ended') stepSafely(execution);
      }, JOURNAL_AGAIN_MS).unref();
    }
  };

  const armTimers = (): void => {
    if (dueTimer) clearTimeout(dueTimer);
    dueTimer = null;
    const due = queue.nextDueMs();
    if (due !== null && !stopped)
      dueTimer = setTimeout(startNext, Math.min(Math.max(due - clock.now(), 0), MAX_WAIT_MS));
    if (timer || active.size === 0 || stopped) return;
    const adopted = [...active.values()].some((one) => !one.hinted);
    timer = setTimeout(lookAtAll, adopted ? ADOPTED_LOOK_MS : LOOK_MS);
  };

  const lookAtAll = (): void => {
    timer = null;
    const full = clock.monotonic() - lastFullLook >= LOOK_MS - 10;
    if (full) lastFullLook = clock.monotonic();
    for (const execution of [...active.values()]) {
      if (full) stepSafely(execution);
      else if (!execution.hinted) finishIfEnded(execution);
      if (full || !execution.hinted) options.onOutput(execution);
    }
    armTimers();
  };

  /** Before it claimed: the claim is voided, so that this is the end. After: the folder tells. */
  const supervisorFailed = (execution: Execution, why: string): void => {
    try {
      if (voidClaim(dirOf(execution))) {
        giveUp(execution, 'failed', why);
        return;
      }
    } catch (error) {
      log.error({ err: error, ...fields(execution) }, 'cannot give up an execution');
    }
    stepSafely(execution);
  };

  const finishIfEnded = (execution: Execution): void => {
    try {
      const status = readStatus(dirOf(execution));
      if (status) finish(execution, status);
    } catch (error) {
      log.error({ err: error, ...fields(execution) }, 'cannot read how a command ended');
      stepSafely(execution);
    }
  };

  return {
    /** Takes new executions, and after a restart the unfinished ones of the journal. */
    add: (executions: readonly Execution[], { adopt = false } = {}): void => {
      for (const execution of executions) {
        if (execution.phase === 'ended') options.onEnd(execution);
        else if (adopt) stepSafely(execution);
        else queue.add(execution);
      }
      startNext();
    },
    hint: (execution: Execution, kind: HintKind, detail: string): void => {
      if (execution.phase === 'ended') return;
      if (kind === 'output') options.onOutput(execution);
      else if (kind === 'exited') finishIfEnded(execution);
      else if (kind === 'claimed') follow(execution);
      else if (kind === 'failed') supervisorFailed(execution, detail);
      else stepSafely(execution);
    },
    cancel: (execution: Execution): void => {
      execution.cancelAsked = true;
      if (execution.phase !== 'ended') stepSafely(execution);
    },
    /** The launcher is a new one: ask again for what nobody claimed; what runs sends its hints nowhere now. */
    launcherRestarted: (): void => {
      for (const execution of active.values()) {
        if (execution.phase === 'starting') {
          if (execution.begun) ask(execution, dirOf(execution));
        } else execution.hinted = false;
      }
    },
    startNext,
    /** How many that come now start at once. */
    freeSlots: (): number =>
      options.mayStart() && !stopped ? Math.max(0, maxConcurrent - active.size - queue.ready) : 0,
    counts: () => ({ queued: queue.size, running: active.size }),
    /** Leaves what runs to its supervisors. */
    stop: (): void => {
      stopped = true;
      if (timer) clearTimeout(timer);
      if (dueTimer) clearTimeout(dueTimer);
    },
  };
};

const writtenBytes = (dir: string): { stdout: number; stderr: number } | null => {
  try {
    const end = (stream: 'stdout' | 'stderr'): number => {
      const last = listSegments(dir, stream).at(-1);
      return last ? last.offset + last.bytes : 0;
    };
    return { stdout: end('stdout'), stderr: end('stderr') };
  } catch {
    return null; // the folder itself is gone
  }
};
