import { expect, test } from 'vitest';
import { isoWeekOf, wallClock } from './wall-clock.ts';

const none = { years: 0, months: 0, days: 0, hours: 0 };
const wall = (year: number, month: number, day: number) => ({
  year,
  month,
  day,
  hour: 0,
  minute: 0,
  second: 0,
  millisecond: 0,
});

test('what the clock on the wall shows', () => {
  const moment = Date.parse('2026-07-01T22:59:58.123Z');
  expect(wallClock('Europe/Berlin').at(moment)).toEqual({
    year: 2026,
    month: 7,
    day: 2,
    hour: 0,
    minute: 59,
    second: 58,
    millisecond: 123,
  });
  expect(wallClock('Asia/Kathmandu').at(moment)).toMatchObject({ day: 2, hour: 4, minute: 44 });
  expect(wallClock('UTC').at(Date.parse('1969-12-31T23:59:59.999Z'))).toEqual({
    year: 1969,
    month: 12,
    day: 31,
    hour: 23,
    minute: 59,
    second: 59,
    millisecond: 999,
  });
});

test.each([
  ['a month less of a longer one', '2026-03-31T10:00:00Z', { months: 1 }, '2026-03-03T10:00:00Z'],
  ['a leap day', '2024-02-29T10:00:00Z', { years: 1 }, '2023-03-01T10:00:00Z'],
  ['into the year before', '2026-01-15T10:00:00Z', { months: 13, days: 20 }, '2024-11-25T10:00:00Z'],
  ['hours', '2026-01-15T10:00:00Z', { days: 1, hours: 30 }, '2026-01-13T04:00:00Z'],
  ['before the year 100', '2026-01-15T10:00:00Z', { years: 1980 }, '0046-01-15T10:00:00Z'],
])('back in time: %s', (_, from, span, to) => {
  expect(new Date(wallClock('UTC').before(Date.parse(from), { ...none, ...span })).toISOString()).toBe(
    new Date(to).toISOString(),
  );
});

test('days are calendar days where clocks change, hours are hours', () => {
  const berlin = wallClock('Europe/Berlin');
  const after = Date.parse('2026-10-25T12:00:00+01:00');
  expect(berlin.before(after, { ...none, days: 1 })).toBe(Date.parse('2026-10-24T12:00:00+02:00'));
  expect(berlin.before(after, { ...none, hours: 24 })).toBe(Date.parse('2026-10-24T13:00:00+02:00'));
});

test.each([
  [2026, 1, 1, 2026, 1],
  [2027, 1, 3, 2026, 53],
  [2027, 1, 4, 2027, 1],
  [2024, 12, 30, 2025, 1],
  [2021, 1, 1, 2020, 53],
  [2023, 1, 1, 2022, 52],
])('%i-%i-%i is in week %i/%i', (year, month, day, weekYear, week) => {
  expect(isoWeekOf(wall(year, month, day))).toEqual({ year: weekYear, week });
});
