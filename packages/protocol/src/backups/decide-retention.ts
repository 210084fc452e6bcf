import type { RetentionPolicy } from './retention.ts';
import { isoWeekOf, type Span, type WallTime, wallClock } from './wall-clock.ts';

/** Which runs of a history a policy keeps, and why: what `restic forget` decides (as of 0.14, Debian's), on times that the server assigned.
 *  Where restic's later releases differ, 0.14 is followed: the oldest run of a history is not kept for its age. Where PBS differs, restic. */

export interface RetentionRun {
  id: string;
  /** Milliseconds since 1970, by the server's clock. */
  at: number;
  tags: readonly string[];
  /** It can be restored: completed, with or without errors. */
  good: boolean;
  /** Its objects cannot be deleted before. */
  locked_until?: number;
}

export interface RetentionDecision {
  id: string;
  keep: boolean;
  /** For people, at least one: why it stays, or why it may go. */
  reasons: string[];
}

/** Newest first; of one moment, the greater id first. Only good runs are counted by rules; a failed one stays until a good one is newer. The newest good
 *  run stays whatever the policy says, so does what is locked; a policy without rules keeps everything. Dates are those of `timezone`.
 *  @throws RangeError for a time zone that does not exist */
export const decideRetention = (
  policy: RetentionPolicy,
  runs: readonly RetentionRun[],
  now: number,
  { timezone }: { timezone: string },
): RetentionDecision[] => {
  const history = [...runs].sort((a, b) => b.at - a.at || (a.id < b.id ? 1 : -1));
  const rules = rulesOf(policy, history, now, timezone);
  let goodSeen = 0;
  return history.map((run) => {
    const { kept, gone } =
      rules.length === 0 ? unruled() : run.good ? ofGood(run, goodSeen, rules) : ofFailed(goodSeen);
    if (run.good) goodSeen += 1;
    if (run.locked_until !== undefined && run.locked_until > now)
      kept.push(`locked until ${new Date(run.locked_until).toISOString()}`);
    return { id: run.id, keep: kept.length > 0, reasons: kept.length > 0 ? kept : [gone] };
  });
};

interface Judgement {
  kept: string[];
  /** Said if nothing keeps it. */
  gone: string;
}

/** Asked for each good run in turn, newest first; a sentence keeps it. `nr` counts them from 0. */
type Rule = (run: RetentionRun, nr: number) => string[];

const unruled = (): Judgement => ({ kept: ['the policy has no rules'], gone: '' });
const ofGood = (run: RetentionRun, nr: number, rules: readonly Rule[]): Judgement => {
  const kept = rules.flatMap((rule) => rule(run, nr));
  return { kept: kept.length === 0 && nr === 0 ? ['last good run'] : kept, gone: 'no rule keeps it' };
};
const ofFailed = (newerGood: number): Judgement =>
  newerGood === 0
    ? { kept: ['failed, and no good run is newer'], gone: '' }
    : { kept: [], gone: 'failed, and a good run is newer' };

const PERIODS = ['hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;
type Bucket = (wall: WallTime, nr: number) => string;
const BUCKETS: Readonly<Record<'last' | (typeof PERIODS)[number], Bucket>> = {
  last: (_, nr) => String(nr),
  hourly: ({ year, month, day, hour }) => `${year}-${month}-${day} ${hour}`,
  daily: ({ year, month, day }) => `${year}-${month}-${day}`,
  weekly: (wall) => {
    const { year, week } = isoWeekOf(wall);
    return `${year} ${week}`;
  },
  monthly: ({ year, month }) => `${year}-${month}`,
  yearly: ({ year }) => String(year),
};
const DAY_MS = 86_400_000;
const ALL = -1;

/** None for a policy that has no effect; in restic's order. */
const rulesOf = (policy: RetentionPolicy, history: readonly RetentionRun[], now: number, timezone: string): Rule[] => {
  const clock = wallClock(timezone);
  // Spans run back from the newest run that is not in the future; without one, from before all time.
  const latest = history.find(({ at, good }) => good && at < now)?.at;
  const start = (span: Span) => (latest === undefined ? Number.NEGATIVE_INFINITY : clock.before(latest, span));
  const tags = (policy.keep_tags ?? []).map(tagRule);
  const within = spanOf(policy.keep_within);
  const counted = (['last', ...PERIODS] as const).flatMap((period) => {
    const count = policy[`keep_${period}`] ?? 0;
    return count === 0 ? [] : [countRule(`${period} run`, count, (run, nr) => BUCKETS[period](clock.at(run.at), nr))];
  });
  const spanned = PERIODS.flatMap((period) => {
    const span = spanOf(policy[`keep_within_${period}`]);
    if (!span) return [];
    const inBucket = countRule(`${period} within ${textOf(span)}`, ALL, (run, nr) =>
      BUCKETS[period](clock.at(run.at), nr),
    );
    return [after(start(span), inBucket)];
  });
  const { days } = policy;
  return [
    ...tags,
    ...(within ? [after(start(within), () => [`within ${textOf(within)}`])] : []),
    ...counted,
    ...spanned,
    ...(days ? [after(now - days * DAY_MS, () => [`younger than ${days} ${days === 1 ? 'day' : 'days'}`])] : []),
  ];
};

const tagRule =
  (wanted: readonly string[]): Rule =>
  ({ tags }) =>
    wanted.every((tag) => tags.includes(tag)) ? [`has tags [${wanted.join(', ')}]`] : [];

const after =
  (start: number, rule: Rule): Rule =>
  (run, nr) =>
    run.at > start ? rule(run, nr) : [];

/** The newest of each bucket, until `count` are kept. Empty periods do not count. */
const countRule = (reason: string, count: number, bucketOf: (run: RetentionRun, nr: number) => string): Rule => {
  let left = count;
  let last: string | null = null;
  return (run, nr) => {
    if (left === 0) return [];
    const bucket = bucketOf(run, nr);
    if (bucket === last) return [];
    last = bucket;
    if (left !== ALL) left -= 1;
    return [reason];
  };
};

/** Null for one of no length: no rule. */
const spanOf = (text: string | undefined): Span | null => {
  const parts = /^(?:(\d+)y)?(?:(\d+)m)?(?:(\d+)d)?(?:(\d+)h)?$/.exec(text ?? '');
  const [years = 0, months = 0, days = 0, hours = 0] = (parts ?? []).slice(1).map((part) => Number(part ?? 0));
  return years + months + days + hours === 0 ? null : { years, months, days, hours };
};
const textOf = ({ years, months, days, hours }: Span): string =>
  [`${years}y`, `${months}m`, `${days}d`, `${hours}h`].filter((part) => !/^0/.test(part)).join('');
