import { expect, test } from 'vitest';
import { addressKey, rateLimiter } from './rate-limit.ts';

test('a burst, then so many a second, each address for itself', () => {
  let now = 0;
  const limiter = rateLimiter({ burst: 2, perSecond: 0.5 }, () => now);
  expect(['a', 'a', 'a', 'b'].map((key) => limiter.take(key))).toEqual([0, 0, 2, 0]);
  now = 2000;
  expect(['a', 'a'].map((key) => limiter.take(key))).toEqual([0, 2]);
  now = 1000; // a clock that steps back gives nothing and takes nothing
  expect(limiter.take('a')).toBe(2);
});

test('whether a key may go on is asked without a charge', () => {
  let now = 0;
  const limiter = rateLimiter({ burst: 2, perSecond: 0.5 }, () => now);
  const asked = () => [limiter.waitSec('a'), limiter.waitSec('a')];
  expect([asked(), limiter.take('a'), asked(), limiter.take('a'), asked()]).toEqual([[0, 0], 0, [0, 0], 0, [2, 2]]);
  now = 1000;
  expect(asked()).toEqual([1, 1]);
  now = 2000;
  expect(asked()).toEqual([0, 0]);
});

test.each([
  ['192.0.2.7', '192.0.2.7'],
  ['::ffff:192.0.2.7', '192.0.2.7'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
  ['2001:0DB8:0001:0002::9', '2001:db8:1:2::/64'],
  ['2001:db8::9', '2001:db8:0:0::/64'],
  ['2001:db8::3:4:5:6:7', '2001:db8:0:3::/64'],
  ['fe80::1%eth0', 'fe80:0:0:0::/64'],
  ['64:ff9b::192.0.2.7', '64:ff9b:0:0::/64'],
  ['::1', '0:0:0:0::/64'],
  ['::', '0:0:0:0::/64'],
  ['x'.repeat(100), 'x'.repeat(64)],
])('%s counts as %s', (address, key) => {
  expect(addressKey(address)).toBe(key);
});
