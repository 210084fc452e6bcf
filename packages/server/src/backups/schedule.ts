import type { Schedule } from '@aegis/protocol/backups/config';
import { AegisError } from '@aegis/protocol/errors';
import { Cron } from 'croner';

/** Whether a schedule is one that croner, which the nodes use too, understands, and that ever comes.
 *  @throws AegisError backups.bad_config */
export const checkSchedule = ({ cron, timezone }: Schedule, now: number): void => {
  if (nextTime(cron, timezone, now) === null)
    throw new AegisError(
      'backups.bad_config',
      `schedule.cron: '${cron}' names no time that ever comes. Check day and month.`,
    );
};

/** Null: never. */
const nextTime = (cron: string, timezone: string, now: number): Date | null => {
  try {
    return new Cron(cron, { timezone, paused: true }).nextRun(new Date(now));
  } catch (cause) {
    const why =
      cause instanceof Error
        ? cause.message
            .split('\n', 1)[0]
            ?.slice(0, 200)
            .replace(/^CronPattern: |\.$/g, '')
        : 'it is not understood';
    throw new AegisError(
      'backups.bad_config',
      `schedule.cron: '${cron}' is not a cron expression: ${why}. Five fields as in "30 2 * * *", six with seconds, or @daily and its like.`,
      { cause },
    );
  }
};
