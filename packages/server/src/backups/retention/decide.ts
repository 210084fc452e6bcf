import { decideRetention, type RetentionDecision } from '@aegis/protocol/backups/decide-retention';
import type { RetentionPolicy } from '@aegis/protocol/backups/retention';
import { isGood } from '@aegis/protocol/backups/run';
import { isoTime } from '../../platform/clock.ts';
import type { RunRow } from '../tables.ts';

/** What a policy makes of one node's runs, as rows. Beyond the policy's own rules: a run that may still be written to stays, and one that
 *  a verification found damaged never counts as one to fall back on. */

export type History = Pick<
  RunRow,
  | 'id'
  | 'node_uid'
  | 'node_name'
  | 'destination_id'
  | 'state'
  | 'started_at'
  | 'deadline_at'
  | 'locked_until'
  | 'verified'
  | 'tags'
>;
export interface Judged extends RetentionDecision {
  run: History;
}

/** @param runs of one node under one configuration, none of them removed @returns newest first */
export const judge = (
  policy: RetentionPolicy,
  runs: readonly History[],
  now: number,
  options: { timezone: string },
): Judged[] => {
  const byId = new Map(runs.map((run) => [run.id, run]));
  const open = runs.flatMap((run) => {
    const reason = stillOpen(run, now);
    return reason === null ? [] : [{ id: run.id, keep: true, reasons: [reason] }];
  });
  const isOpen = new Set(open.map(({ id }) => id));
  const decided = decideRetention(policy, runs.filter(({ id }) => !isOpen.has(id)).map(asRetentionRun), now, options);
  return [...open, ...decided]
    .flatMap((decision) => {
      const run = byId.get(decision.id);
      return run ? [{ ...decision, reasons: decision.reasons.map((text) => saying(text, run)), run }] : [];
    })
    .sort((a, b) => b.run.started_at - a.run.started_at || (a.id < b.id ? 1 : -1));
};

const stillOpen = (run: History, now: number): string | null => {
  if (run.state === 'running') return 'under way';
  if (isGood(run.state) || run.deadline_at <= now) return null;
  return `${run.state}; until ${isoTime(run.deadline_at)} something of it may still arrive`;
};

const asRetentionRun = (run: History) => ({
  id: run.id,
  at: run.started_at,
  tags: JSON.parse(run.tags) as string[],
  good: isGood(run.state) && !isDamaged(run),
  ...(run.locked_until === null ? {} : { locked_until: run.locked_until }),
});

export const isDamaged = ({ verified }: Pick<RunRow, 'verified'>): boolean =>
  verified !== null && !(JSON.parse(verified) as { ok: boolean }).ok;
/** The rules speak of failed runs where they mean all that cannot be relied on. */
const saying = (text: string, run: History): string =>
  isGood(run.state) ? text.replace(/^failed, and/, 'found damaged, and') : text.replace(/^failed/, run.state);
