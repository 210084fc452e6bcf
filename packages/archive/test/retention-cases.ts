import type { RetentionRun } from '@aegis/protocol/backups/decide-retention';
import type { RetentionPolicy } from '@aegis/protocol/backups/retention';
import type { Chance } from './mutants.ts';

/** Histories and policies without end, the same ones for the same seed (and moment). */

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const TAGS = ['a', 'b', 'c', 'nightly'];
/** Where clocks change, or changed in the last years, or have odd offsets; UTC first. */
export const ZONES = [
  'UTC',
  'Europe/Berlin',
  'America/New_York',
  'Europe/London',
  'Asia/Kathmandu',
  'Australia/Lord_Howe',
  'Pacific/Apia',
];

/** Up to some years back, with runs in the future now and then; no two at one moment, since restic's order of such is not defined. */
export const historyOf = (now: number, { below, pick }: Chance): RetentionRun[] => {
  const step = pick([10 * 60_000, HOUR_MS, 5 * HOUR_MS, DAY_MS, DAY_MS, 3 * DAY_MS, 9 * DAY_MS, 40 * DAY_MS]);
  const count = 1 + below(40);
  const tagged = below(2) === 0;
  let at = now + (below(4) === 0 ? below(3 * step) : -below(20 * DAY_MS) - 1000);
  return Array.from({ length: count }, (_, nr) => {
    // Around midnight and full hours now and then, where buckets end.
    if (below(5) === 0) at = Math.floor(at / HOUR_MS) * HOUR_MS - below(2);
    const run = {
      id: `run-${String(nr).padStart(3, '0')}`,
      at,
      tags: tagged ? TAGS.filter(() => below(3) === 0) : [],
      good: true,
    };
    at -= 1000 + below(pick([step, step, step, 2 * step, 10 * step]));
    return run;
  });
};

export const policyOf = ({ below, pick }: Chance): RetentionPolicy => {
  const count = () => pick([0, 1, 1, 2, 3, 5, 7, 12, 100]);
  const span = () => {
    const text = [
      below(4) === 0 ? `${below(4)}y` : '',
      below(3) === 0 ? `${below(14)}m` : '',
      below(2) === 0 ? `${below(40)}d` : '',
      below(3) === 0 ? `${below(60)}h` : '',
    ].join('');
    return text === '' ? '10d' : text;
  };
  const some = (least: number) => below(10) < least;
  return {
    ...(some(3) ? { keep_last: count() } : {}),
    ...(some(2) ? { keep_hourly: count() } : {}),
    ...(some(4) ? { keep_daily: count() } : {}),
    ...(some(4) ? { keep_weekly: count() } : {}),
    ...(some(4) ? { keep_monthly: count() } : {}),
    ...(some(3) ? { keep_yearly: count() } : {}),
    ...(some(2) ? { keep_within: span() } : {}),
    ...(some(1) ? { keep_within_hourly: span() } : {}),
    ...(some(1) ? { keep_within_daily: span() } : {}),
    ...(some(1) ? { keep_within_weekly: span() } : {}),
    ...(some(1) ? { keep_within_monthly: span() } : {}),
    ...(some(1) ? { keep_within_yearly: span() } : {}),
    ...(some(2) ? { keep_tags: pick([[['a']], [['a', 'b']], [['a'], ['nightly', 'c']]]) } : {}),
  };
};

/** The same, for `restic forget`. */
export const optionsOf = ({ keep_tags = [], ...rest }: RetentionPolicy): string[] => [
  ...Object.entries(rest).flatMap(([name, value]) => [`--${name.replaceAll('_', '-')}`, String(value)]),
  ...keep_tags.flatMap((tags) => ['--keep-tag', tags.join(',')]),
];
