import { decide, jitterMs } from '@aegis/protocol/backups/decide-schedule';
import type { Clock } from '../platform/clock.ts';
import { isoTime } from '../platform/clock.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { Logger } from '../platform/log.ts';
import type { Desired, Held } from './desired.ts';
import type { BackupsRepository } from './repository.ts';
import type { Runner } from './runner.ts';

/** The one loop that starts runs on their schedules. It looks at the wall clock at least each minute, since that may jump; a time of a schedule
 *  is journaled as over in the commit that makes its run, so none runs twice. */

export interface ScheduleLoopOptions {
  nodeUid: string;
  desired: Desired;
  runner: Pick<Runner, 'add' | 'busyWith'>;
  repository: BackupsRepository;
  journal: Pick<Journal, 'group'>;
  /** When something runs next has changed. */
  onChange(): void;
  clock: Clock;
  log: Logger;
  signal: AbortSignal;
  lookMs?: number;
}

export type ScheduleLoop = ReturnType<typeof scheduleLoop>;

const LOOK_MS = 60_000;
const AGAIN_MS = 5000;

export const scheduleLoop = (options: ScheduleLoopOptions) => {
  const { nodeUid, desired, runner, repository, journal, clock, log, signal, lookMs = LOOK_MS } = options;
  const nextRuns = new Map<string, number | null>();
  let timer: NodeJS.Timeout | null = null;
  let looking: Promise<void> | null = null;
  let again = false;

  const say = (configId: string, startMs: number | null): void => {
    if (nextRuns.get(configId) === startMs && nextRuns.has(configId)) return;
    nextRuns.set(configId, startMs);
    options.onChange();
  };
  const over = async (configId: string, untilMs: number): Promise<void> => {
    await journal.group('backup-schedule', () => repository.setScheduledUntil(configId, untilMs));
    desired.scheduledUntil(configId, untilMs);
  };

  /** @returns when to look again, by the wall clock */
  const lookAt = async ({ row: { configId, present }, body }: Held): Promise<number | null> => {
    const schedule = body?.work.schedule;
    if (!present || !body || !schedule || body.paused) {
      say(configId, null);
      return null;
    }
    const offsetMs = jitterMs(nodeUid, configId, schedule);
    for (;;) {
      const held = desired.held.get(configId);
      if (!held || signal.aborted) return null;
      const decision = decide(schedule, offsetMs, held.row.scheduledUntilMs, clock.now());
      if (decision.kind === 'wait') {
        say(configId, decision.startMs);
        return decision.startMs;
      }
      if (decision.kind === 'skip') {
        log.info({ config: body.name, until: isoTime(decision.untilMs) }, 'missed times of a backup are left out');
        await over(configId, decision.untilMs);
        continue;
      }
      const { scheduledMs, missed } = decision;
      const busy = runner.busyWith(configId);
      if (busy) {
        log.warn(
          { config: body.name, run: busy.id, scheduled_at: isoTime(scheduledMs) },
          'a scheduled backup is left out: the one before it still runs',
        );
        await over(configId, scheduledMs);
        continue;
      }
      await runner.add(held, {
        trigger: missed ? 'missed' : 'schedule',
        scheduledMs,
        also: () => repository.setScheduledUntil(configId, scheduledMs),
      });
      desired.scheduledUntil(configId, scheduledMs);
    }
  };

  const look = async (): Promise<void> => {
    let next = Number.POSITIVE_INFINITY;
    for (const held of [...desired.held.values()]) {
      if (signal.aborted) return;
      try {
        next = Math.min(next, (await lookAt(held)) ?? next);
      } catch (error) {
        // A full disk, or a schedule that this release cannot read: the others go on.
        log.error(
          { err: error, config: held.body?.name ?? held.row.configId },
          'cannot see to the schedule of a backup, trying again',
        );
        next = Math.min(next, clock.now() + AGAIN_MS);
      }
    }
    for (const configId of nextRuns.keys()) if (!desired.held.has(configId)) nextRuns.delete(configId);
    if (signal.aborted || next === Number.POSITIVE_INFINITY) return;
    timer = setTimeout(kick, Math.min(lookMs, Math.max(0, next - clock.now()) + 1)).unref();
  };
  const kick = (): void => {
    if (signal.aborted) return;
    if (looking) {
      again = true;
      return;
    }
    if (timer) clearTimeout(timer);
    timer = null;
    again = false;
    looking = look().finally(() => {
      looking = null;
      if (again) kick();
    });
  };

  return {
    /** Looks now: at the start, and when a configuration changed. */
    kick,
    nextRunMs: (configId: string): number | null => nextRuns.get(configId) ?? null,
    stopped: async (): Promise<void> => {
      if (timer) clearTimeout(timer);
      await looking;
    },
  };
};
