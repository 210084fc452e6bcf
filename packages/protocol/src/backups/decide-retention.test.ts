import { expect, test } from 'vitest';
import { decideRetention, type RetentionRun } from './decide-retention.ts';
import { RetentionPolicy } from './retention.ts';

/** What restic has no opinion on, and the edges by name; generated histories are compared with restic itself in packages/archive/test. */

const NOW = Date.parse('2026-11-21T12:00:00Z');
const run = (id: string, time: string, more: Partial<RetentionRun> = {}): RetentionRun => ({
  id,
  at: Date.parse(time),
  tags: [],
  good: true,
  ...more,
});
const decide = (policy: RetentionPolicy, runs: RetentionRun[], timezone = 'UTC'): Record<string, string[]> =>
  Object.fromEntries(
    decideRetention(RetentionPolicy.parse(policy), runs, NOW, { timezone }).map(({ id, keep, reasons }) => [
      id,
      keep ? reasons : ['GONE', ...reasons],
    ]),
  );
const days = (...numbers: number[]) =>
  numbers.map((day) => run(`d${day}`, `2026-11-${String(day).padStart(2, '0')}T03:00:00Z`));

test.each<[string, RetentionPolicy]>([
  ['no rule', {}],
  ['rules of nothing', { keep_last: 0, keep_daily: 0, keep_within: '0d', keep_tags: [] }],
])('%s removes nothing, not even what failed', (_, policy) => {
  const runs = [...days(20), run('failed', '2026-11-01T00:00:00Z', { good: false })];
  expect(decide(policy, runs)).toEqual({ d20: ['the policy has no rules'], failed: ['the policy has no rules'] });
});

test('the newest of each period, and a reason for each', () => {
  expect(decide({ keep_last: 1, keep_daily: 2, keep_weekly: 3 }, days(20, 19, 18, 13, 6, 1))).toEqual({
    d20: ['last run', 'daily run', 'weekly run'],
    d19: ['daily run'],
    d18: ['GONE', 'no rule keeps it'],
    d13: ['weekly run'],
    d6: ['weekly run'],
    d1: ['GONE', 'no rule keeps it'],
  });
});

test('empty periods do not count, and -1 keeps all of a period', () => {
  const runs = [
    run('a', '2026-11-20T10:00:00Z'),
    run('b', '2024-03-01T10:00:00Z'),
    run('c', '2024-03-01T09:00:00Z'),
    run('d', '2019-01-01T00:00:00Z'),
  ];
  expect(decide({ keep_monthly: 3 }, runs)).toEqual({
    a: ['monthly run'],
    b: ['monthly run'],
    c: ['GONE', 'no rule keeps it'],
    d: ['monthly run'],
  });
  expect(decide({ keep_yearly: -1 }, runs)).toEqual({
    a: ['yearly run'],
    b: ['yearly run'],
    c: ['GONE', 'no rule keeps it'],
    d: ['yearly run'],
  });
  expect(decide({ keep_last: -1 }, runs)).toMatchObject({ c: ['last run'], d: ['last run'] });
});

test('the last good run stays whatever the policy says', () => {
  const runs = [run('newest', '2020-01-02T00:00:00Z'), run('older', '2020-01-01T00:00:00Z')];
  expect(decide({ days: 7 }, runs)).toEqual({ newest: ['last good run'], older: ['GONE', 'no rule keeps it'] });
  expect(decide({ keep_tags: [['x']] }, runs)).toEqual({
    newest: ['last good run'],
    older: ['GONE', 'no rule keeps it'],
  });
});

test('failed runs count for no rule, and go once a good one is newer', () => {
  const failed = (id: string, time: string) => run(id, time, { good: false, tags: ['x'] });
  const runs = [
    failed('f3', '2026-11-20T05:00:00Z'),
    failed('f2', '2026-11-20T04:00:00Z'),
    ...days(20),
    failed('f1', '2026-11-19T04:00:00Z'),
    ...days(19),
  ];
  expect(decide({ keep_last: 2, keep_tags: [['x']], keep_within: '1y' }, runs)).toEqual({
    f3: ['failed, and no good run is newer'],
    f2: ['failed, and no good run is newer'],
    d20: ['within 1y', 'last run'],
    f1: ['GONE', 'failed, and a good run is newer'],
    d19: ['within 1y', 'last run'],
  });
  expect(decide({ keep_last: 1 }, [failed('only', '2020-01-01T00:00:00Z')])).toEqual({
    only: ['failed, and no good run is newer'],
  });
});

test('what is locked stays, and counts as it would without', () => {
  const until = (time: string) => ({ locked_until: Date.parse(time) });
  const runs = [
    ...days(20),
    run('locked', '2026-11-19T00:00:00Z', until('2026-12-01T00:00:00Z')),
    run('was', '2026-11-18T00:00:00Z', until('2026-11-21T12:00:00Z')),
  ];
  expect(decide({ keep_daily: 1 }, runs)).toEqual({
    d20: ['daily run'],
    locked: ['locked until 2026-12-01T00:00:00.000Z'],
    was: ['GONE', 'no rule keeps it'],
  });
  const failed = run('failed', '2026-11-01T00:00:00Z', { good: false, ...until('2027-01-01T00:00:00Z') });
  expect(decide({ keep_daily: 1 }, [...days(20), failed]).failed).toEqual(['locked until 2027-01-01T00:00:00.000Z']);
});

test("the seed's days go back from now, restic's spans from the newest run that is not in the future", () => {
  const runs = [
    run('future', '2027-01-01T00:00:00Z'),
    run('a', '2026-11-01T00:00:00Z'),
    run('b', '2026-10-31T00:00:00Z'),
    run('c', '2026-10-30T23:59:59Z'),
  ];
  expect(decide({ days: 21 }, runs)).toEqual({
    future: ['younger than 21 days'],
    a: ['younger than 21 days'],
    b: ['GONE', 'no rule keeps it'],
    c: ['GONE', 'no rule keeps it'],
  });
  expect(decide({ keep_within: '2d' }, runs)).toEqual({
    future: ['within 2d'],
    a: ['within 2d'],
    b: ['within 2d'],
    c: ['within 2d'],
  });
  expect(decide({ keep_within: '1d' }, runs)).toEqual({
    future: ['within 1d'],
    a: ['within 1d'],
    b: ['GONE', 'no rule keeps it'],
    c: ['GONE', 'no rule keeps it'],
  });
  expect(decide({ keep_within_daily: '1d1h' }, runs)).toMatchObject({
    b: ['daily within 1d1h'],
    c: ['daily within 1d1h'],
  });
});

test('days are those of the time zone', () => {
  const runs = [run('late', '2026-11-20T23:30:00Z'), run('early', '2026-11-20T22:30:00Z')];
  expect(decide({ keep_daily: 5 }, runs)).toEqual({ late: ['daily run'], early: ['GONE', 'no rule keeps it'] });
  expect(decide({ keep_daily: 5 }, runs, 'Europe/Berlin')).toEqual({ late: ['daily run'], early: ['daily run'] });
  expect(() => decide({ keep_daily: 5 }, runs, 'Mars/Olympus')).toThrow(RangeError);
});

test('tags: all of one list, any of several', () => {
  const runs = [
    run('n', '2026-11-20T00:00:00Z'),
    run('ab', '2026-11-19T00:00:00Z', { tags: ['b', 'a'] }),
    run('a', '2026-11-18T00:00:00Z', { tags: ['a'] }),
    run('c', '2026-11-17T00:00:00Z', { tags: ['c'] }),
  ];
  expect(decide({ keep_tags: [['a', 'b'], ['c']] }, runs)).toEqual({
    n: ['last good run'],
    ab: ['has tags [a, b]'],
    a: ['GONE', 'no rule keeps it'],
    c: ['has tags [c]'],
  });
});

test('of one moment the greater id is the newer', () => {
  const same = ['a', 'c', 'b'].map((id) => run(id, '2026-11-20T00:00:00Z'));
  expect(decideRetention({ keep_last: 1 }, same, NOW, { timezone: 'UTC' }).map(({ id, keep }) => [id, keep])).toEqual([
    ['c', true],
    ['b', false],
    ['a', false],
  ]);
});

test('no run at all', () => {
  expect(decideRetention({ keep_last: 1, keep_within: '1y' }, [], NOW, { timezone: 'UTC' })).toEqual([]);
});
