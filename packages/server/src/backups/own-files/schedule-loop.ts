import { decide, jitterMs } from '@aegis/protocol/backups/decide-schedule';
import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../../platform/clock.ts';
import type { Log } from '../../platform/log.ts';
import { loop } from '../../platform/loop.ts';
import type { Storage } from '../../tables.ts';
import { specOf } from '../config-views.ts';
import type { ConfigsRepository } from '../configs-repository.ts';
import type { ConfigRow } from '../tables.ts';
import type { OwnRunsService } from './service.ts';

/** Starts runs of the server's own files by their schedules, as a daemon does on a node: what was missed while the server was stopped runs
 *  once. Times are over that a run was made for, and those before the schedule was what it is. */

const EVERY_MS = 5000;

export const ownSchedule = (on: {
  storage: Storage;
  configs: ConfigsRepository;
  own: Pick<OwnRunsService, 'start' | 'endAbandoned'>;
  clock: Clock;
  log: Log;
}) => {
  const { clock, log } = on;
  /** By configuration: its schedule as it was last seen, and until when its times are over. */
  const seen = new Map<string, { schedule: string; untilMs: number }>();

  const lastScheduled = async (configId: string): Promise<number> => {
    const row = await on.storage.read
      .selectFrom('backups_runs')
      .select(({ fn }) => fn.max('scheduled_at').as('at'))
      .where('config_id', '=', configId)
      .where('node_uid', 'is', null)
      .executeTakeFirst();
    return Number(row?.at ?? 0);
  };
  const look = async (config: ConfigRow): Promise<void> => {
    const { schedule, paused } = specOf(config);
    const now = clock.now();
    if (schedule === undefined) {
      seen.delete(config.id);
      return;
    }
    const text = JSON.stringify(schedule);
    const before = seen.get(config.id);
    if (before?.schedule !== text) seen.set(config.id, { schedule: text, untilMs: config.updated_at });
    const known = seen.get(config.id);
    if (!known) return;
    if (paused) {
      known.untilMs = now; // what comes meanwhile is not missed
      return;
    }
    const untilMs = Math.max(known.untilMs, await lastScheduled(config.id));
    const what = decide(schedule, jitterMs('server', config.id, schedule), untilMs, now);
    if (what.kind === 'skip') known.untilMs = what.untilMs;
    if (what.kind !== 'run') return;
    try {
      await on.own.start(config, what.missed ? 'missed' : 'schedule', what.scheduledMs);
      known.untilMs = what.scheduledMs;
    } catch (error) {
      if (!(error instanceof AegisError)) throw error;
      if (error.code !== 'backups.busy' && error.code !== 'http.unavailable') {
        known.untilMs = what.scheduledMs;
        log.warn({ config: config.name, err: error }, "a backup of the server's own files could not begin");
      } // else: when that one is over, or the server is there again
    }
  };
  const turn = async (): Promise<void> => {
    await on.own.endAbandoned();
    const configs = await on.configs.ofServer();
    for (const id of seen.keys()) if (!configs.some((config) => config.id === id)) seen.delete(id);
    for (const config of configs) await look(config);
  };
  return {
    turn,
    start: (signal: AbortSignal): void => {
      // Two processes would both find that it is time.
      const alone = () => on.storage.alone('backups.own-schedule', turn);
      loop({ name: 'backups.own-schedule', everyMs: EVERY_MS, turn: alone, signal, log });
    },
  };
};
export type OwnSchedule = ReturnType<typeof ownSchedule>;
