import { expect, test } from 'vitest';
import { rateLimiter } from './rate-limit.ts';

test('a burst, then so many a second, each address for itself', () => {
  let now = 0;
  const limiter = rateLimiter({ burst: 2, perSecond: 0.5 }, () => now);
  expect(['a', 'a', 'a', 'b'].map((key) => limiter.take(key))).toEqual([0, 0, 2, 0]);
  now = 2000;
  expect(['a', 'a'].map((key) => limiter.take(key))).toEqual([0, 2]);
  now = 1000; // a clock that steps back gives nothing and takes nothing
  expect(limiter.take('a')).toBe(2);
});
