import { expect, test } from 'vitest';
import * as z from 'zod/mini';
import { Schedule } from './config.ts';
import { decide, jitterMs, timeAfter } from './decide-schedule.ts';

const ms = (text: string): number => Date.parse(text);
const iso = (at: number | null): string | null => (at === null ? null : new Date(at).toISOString());
const schedule = (cron: string, more: Partial<Schedule> = {}): Schedule => z.parse(Schedule, { cron, ...more });

const times = (one: Schedule, from: string, count: number): (string | null)[] => {
  const found: (string | null)[] = [];
  for (let at: number | null = ms(from); found.length < count && at !== null; ) {
    at = timeAfter(one, at);
    found.push(iso(at));
  }
  return found;
};

test('where clocks go forward over the time of day it runs at the hour that comes instead, where they go back once', () => {
  const berlin = schedule('30 2 * * *', { timezone: 'Europe/Berlin' });
  expect(times(berlin, '2026-03-28T00:00:00Z', 3)).toEqual([
    '2026-03-28T01:30:00.000Z',
    '2026-03-29T01:00:00.000Z',
    '2026-03-30T00:30:00.000Z',
  ]);
  expect(times(berlin, '2026-10-24T00:00:00Z', 3)).toEqual([
    '2026-10-24T00:30:00.000Z',
    '2026-10-25T00:30:00.000Z',
    '2026-10-26T01:30:00.000Z',
  ]);
  expect(times(schedule('15 2 * * *', { timezone: 'America/New_York' }), '2026-03-07T12:00:00Z', 2)).toEqual([
    '2026-03-08T07:00:00.000Z',
    '2026-03-09T06:15:00.000Z',
  ]);
});

test('what runs every so often follows the real time over both changes', () => {
  const halfHours = schedule('*/30 * * * *', { timezone: 'Europe/Berlin' });
  expect(times(halfHours, '2026-03-29T00:30:00Z', 3)).toEqual([
    '2026-03-29T01:00:00.000Z',
    '2026-03-29T01:30:00.000Z',
    '2026-03-29T02:00:00.000Z',
  ]);
  expect(times(schedule('@hourly', { timezone: 'Europe/Berlin' }), '2026-10-24T23:30:00Z', 3)).toEqual([
    '2026-10-25T00:00:00.000Z',
    '2026-10-25T01:00:00.000Z',
    '2026-10-25T02:00:00.000Z',
  ]);
});

test("a node's moment within the jitter is its own, stays, and differs between nodes and configurations", () => {
  const wide = { jitter_sec: 3600 };
  const all = Array.from({ length: 1000 }, (_, nth) => jitterMs(`node ${nth}`, 'config', wide));
  expect(Math.min(...all)).toBeLessThan(60_000);
  expect(Math.max(...all)).toBeGreaterThan(3_540_000);
  expect(Math.max(...all)).toBeLessThan(3_600_000);
  // In each of sixty minutes about as many: 1000 / 60 ± far more than chance would need.
  const minutes = new Map<number, number>();
  for (const one of all) minutes.set(Math.floor(one / 60_000), (minutes.get(Math.floor(one / 60_000)) ?? 0) + 1);
  expect(minutes.size).toBe(60);
  expect(Math.max(...minutes.values())).toBeLessThan(45);
  expect(jitterMs('node 1', 'config', wide)).toBe(all[1]);
  expect(jitterMs('node 1', 'other', wide)).not.toBe(all[1]);
  expect(jitterMs('node 1', 'config', { jitter_sec: 0 })).toBe(0);
});

test('a time runs at its moment, once, and what was missed runs once as well', () => {
  const nightly = schedule('0 2 * * *');
  const until = ms('2026-05-01T02:00:00Z');
  const at = (now: string, from = until, one = nightly, offset = 600_000) => {
    const decision = decide(one, offset, from, ms(now));
    if (decision.kind === 'wait') return ['wait', iso(decision.startMs)];
    if (decision.kind === 'skip') return ['skip', iso(decision.untilMs)];
    return ['run', iso(decision.scheduledMs), decision.missed];
  };
  expect(at('2026-05-02T02:09:59Z')).toEqual(['wait', '2026-05-02T02:10:00.000Z']);
  expect(at('2026-05-02T02:10:00Z')).toEqual(['run', '2026-05-02T02:00:00.000Z', false]);
  expect(at('2026-05-02T02:11:59Z')).toEqual(['run', '2026-05-02T02:00:00.000Z', false]);
  expect(at('2026-05-02T09:00:00Z')).toEqual(['run', '2026-05-02T02:00:00.000Z', true]);
  // A week asleep: once, for the newest.
  expect(at('2026-05-09T01:00:00Z')).toEqual(['run', '2026-05-08T02:00:00.000Z', true]);
  const lazy = schedule('0 2 * * *', { catch_up: false });
  expect(at('2026-05-09T01:00:00Z', until, lazy)).toEqual(['skip', '2026-05-08T02:00:00.000Z']);
  expect(at('2026-05-09T02:10:30Z', until, lazy)).toEqual(['run', '2026-05-09T02:00:00.000Z', false]);
});

test('a clock that jumps back runs nothing twice, and one that was years ahead holds nothing up for years', () => {
  const nightly = schedule('0 2 * * *');
  const until = ms('2026-05-02T02:00:00Z');
  // Set back by an hour, just after the run.
  expect(decide(nightly, 0, until, ms('2026-05-02T01:05:00Z'))).toEqual({
    kind: 'wait',
    startMs: ms('2026-05-03T02:00:00Z'),
  });
  expect(decide(nightly, 0, until, ms('2026-05-02T02:00:00Z'))).toEqual({
    kind: 'wait',
    startMs: ms('2026-05-03T02:00:00Z'),
  });
  const ahead = ms('2038-01-19T02:00:00Z');
  expect(decide(nightly, 0, ahead, ms('2026-05-02T12:00:00Z'))).toEqual({
    kind: 'skip',
    untilMs: ms('2026-05-02T12:00:00Z'),
  });
});

test('a schedule without another time waits for ever', () => {
  expect(decide(schedule('0 0 30 2 *'), 0, ms('2026-01-01T00:00:00Z'), ms('2026-02-01T00:00:00Z'))).toEqual({
    kind: 'wait',
    startMs: null,
  });
});
