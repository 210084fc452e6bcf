import { createHash } from 'node:crypto';
import { Cron } from 'croner';
import type { Schedule } from './config.ts';

/** When a configuration runs: times of its schedule by the wall clock of its time zone, and this node's own fixed moment after each. Where
 *  the clocks go forward over a time of day, it runs at the hour that comes instead; where they go back, once. Times of every few minutes
 *  or hours follow the real time then. */

/** A start that is later than this was missed: without catch_up it is left out. */
export const LATE_MS = 120_000;
/** A wall clock that is found to be so far behind the last schedule time was wrong then: nothing would run until it comes there again. */
const MISTAKEN_MS = 26 * 3_600_000;

/** In [0, jitter_sec): the same on each day, another on each node. */
export const jitterMs = (nodeUid: string, configId: string, { jitter_sec }: Pick<Schedule, 'jitter_sec'>): number => {
  const digest = createHash('sha256').update(`aegis-backup-jitter-1\0${nodeUid}\0${configId}`).digest();
  return Math.floor((digest.readUInt32BE(0) / 2 ** 32) * jitter_sec * 1000);
};

/** The first time of the schedule after `ms`; null when there is none any more. */
export const timeAfter = ({ cron, timezone }: Pick<Schedule, 'cron' | 'timezone'>, ms: number): number | null =>
  new Cron(cron, { timezone, paused: true }).nextRun(new Date(ms))?.getTime() ?? null;

/** The last time of the schedule at or before `ms`, found by steps back that double: a schedule that never ran answers null. */
const lastTimeUntil = (schedule: Schedule, ms: number, after: number): number | null => {
  for (let back = 60_000; ; back *= 2) {
    const from = Math.max(after, ms - back);
    let found: number | null = null;
    for (let time = timeAfter(schedule, from); time !== null && time <= ms; time = timeAfter(schedule, time))
      found = time;
    if (found !== null || from === after) return found;
  }
};

export type Decision =
  /** Run now for this time of the schedule, which is over then. */
  | { kind: 'run'; scheduledMs: number; missed: boolean }
  /** Everything up to this is over without a run. */
  | { kind: 'skip'; untilMs: number }
  | { kind: 'wait'; startMs: number | null };

/** What to do at wall time `nowMs`, when times up to `untilMs` are over. However the clock jumps, no time of the schedule runs twice. */
export const decide = (schedule: Schedule, offsetMs: number, untilMs: number, nowMs: number): Decision => {
  if (untilMs - nowMs > MISTAKEN_MS) return { kind: 'skip', untilMs: nowMs };
  const next = timeAfter(schedule, untilMs);
  if (next === null) return { kind: 'wait', startMs: null };
  if (next + offsetMs > nowMs) return { kind: 'wait', startMs: next + offsetMs };
  // Of several that are due the newest stands for all.
  const due = lastTimeUntil(schedule, nowMs - offsetMs, untilMs) ?? next;
  const missed = nowMs - (due + offsetMs) > LATE_MS;
  if (missed && !schedule.catch_up) return { kind: 'skip', untilMs: due };
  return { kind: 'run', scheduledMs: due, missed };
};
