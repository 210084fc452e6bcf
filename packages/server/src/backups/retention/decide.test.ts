import { expect, test } from 'vitest';
import { type History, judge } from './decide.ts';

const NOW = Date.parse('2026-03-10T00:00:00.000Z');
const HOUR = 3_600_000;
let made = 0;
const run = (hoursAgo: number, more: Partial<History> = {}): History => ({
  id: `run-${++made}-${hoursAgo}h`,
  node_uid: 'node',
  node_name: 'web-1',
  destination_id: 'place',
  state: 'completed',
  started_at: NOW - hoursAgo * HOUR,
  deadline_at: NOW - hoursAgo * HOUR + 24 * HOUR,
  locked_until: null,
  verified: null,
  tags: '[]',
  ...more,
});
const judged = (runs: readonly History[], policy = { keep_last: 1 }) =>
  judge(policy, runs, NOW, { timezone: 'UTC' }).map(
    ({ id, keep, reasons }) => `${id.replace(/^run-\d+-/, '')} ${keep ? 'keep' : 'gone'}: ${reasons.join(', ')}`,
  );
const damaged = { verified: JSON.stringify({ at: '2026-03-09T00:00:00.000Z', ok: false, message: 'no' }) };

test('a damaged run is nothing to fall back on: the good one before it stays', () => {
  expect(judged([run(1, damaged), run(2), run(3)])).toEqual([
    '1h keep: found damaged, and no good run is newer',
    '2h keep: last run',
    '3h gone: no rule keeps it',
  ]);
  expect(judged([run(1), run(2, damaged)])).toEqual([
    '1h keep: last run',
    '2h gone: found damaged, and a good run is newer',
  ]);
});

test('what may still be written to stays: under way, and ended badly before its deadline', () => {
  const runs = [
    run(1),
    run(2, { state: 'running' }),
    run(3, { state: 'lost' }),
    run(30, { state: 'running' }),
    run(31, { state: 'lost' }),
    run(32, { state: 'cancelled' }),
  ];
  expect(judged(runs)).toEqual([
    '1h keep: last run',
    '2h keep: under way',
    '3h keep: lost; until 2026-03-10T21:00:00.000Z something of it may still arrive',
    '30h keep: under way',
    '31h gone: lost, and a good run is newer',
    '32h gone: cancelled, and a good run is newer',
  ]);
});

test('no rules: everything stays; locked: until then', () => {
  expect(judged([run(1), run(2)], {} as { keep_last: number })).toEqual([
    '1h keep: the policy has no rules',
    '2h keep: the policy has no rules',
  ]);
  expect(judged([run(1), run(2, { locked_until: NOW + 1 })])).toEqual([
    '1h keep: last run',
    '2h keep: locked until 2026-03-10T00:00:00.001Z',
  ]);
});
