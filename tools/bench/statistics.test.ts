import { expect, test } from 'vitest';
import { median, quantile } from './statistics.ts';

test('the median lies in the middle, whatever the order', () => {
  expect([median([3, 1, 2]), median([4, 1, 3, 2]), median([7])]).toEqual([2, 2.5, 7]);
});

test('a quantile is a value that was measured', () => {
  const hundred = Array.from({ length: 100 }, (_, index) => 100 - index);
  expect([quantile(hundred, 0.5), quantile(hundred, 0.99), quantile(hundred, 1), quantile(hundred, 0)]).toEqual([
    50, 99, 100, 1,
  ]);
});

test('nothing measured is not a number', () => {
  expect([median([]), quantile([], 0.5)]).toEqual([Number.NaN, Number.NaN]);
});
