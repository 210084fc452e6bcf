import { expect, test } from 'vitest';
import { requestSize } from './request-size.ts';

const KIB = 1024;
const sized = () => {
  const clock = { ms: 0, monotonic: () => clock.ms };
  const size = requestSize(clock);
  /** A request that carries so much, and what may be carried afterwards. */
  const sent = async (carried: number, tookMs: number, fails = false): Promise<number> => {
    const send = async () => {
      clock.ms += tookMs;
      if (fails) throw new Error('no answer');
    };
    await size.learn(carried, send).catch(() => undefined);
    return size.bytes();
  };
  return { size, sent };
};

test('large requests that are answered soon let it grow, small ones say nothing', async () => {
  const { size, sent } = sized();
  expect(size.bytes()).toBe(64 * KIB);
  expect(await sent(100, 5)).toBe(64 * KIB);
  expect(await sent(32 * KIB, 5)).toBe(128 * KIB);
  for (let nth = 0; nth < 20; nth++) await sent(size.bytes(), 5);
  expect(size.bytes()).toBe(4096 * KIB);
});

test('what comes through late, or is given up, makes it smaller, down to what passes anywhere', async () => {
  const { sent } = sized();
  expect(await sent(64 * KIB, 5000)).toBe(64 * KIB);
  expect(await sent(64 * KIB, 11_000)).toBe(32 * KIB);
  expect(await sent(20 * KIB, 30_000, true)).toBe(5 * KIB);
  expect(await sent(5 * KIB, 30_000, true)).toBe(4 * KIB);
});

test('where nobody is there at all it stays', async () => {
  const { sent } = sized();
  expect(await sent(64 * KIB, 3, true)).toBe(64 * KIB);
});
