import { expect, test } from 'vitest';
import { firstPartBytes, partBytes } from './part-sizes.ts';

const MIB = 1024 * 1024;
const total = (first: number): number => {
  let sum = 0;
  for (let number = 1; number <= 10_000; number++) sum += partBytes(first, number);
  return sum;
};

test('10,000 parts hold 5 TiB, from the least size on, and none is larger than S3 takes', () => {
  expect(total(16 * MIB)).toBeGreaterThan(5 * 1024 ** 4);
  expect(total(5 * MIB)).toBeGreaterThan(5 * 1024 ** 4);
  expect([1, 5000, 5001, 5401, 10_000].map((number) => partBytes(16 * MIB, number) / MIB)).toEqual([
    16, 16, 32, 64, 5120,
  ]);
});

test('an archive that was large before has equal parts to the end', () => {
  expect(firstPartBytes(16 * MIB, 0)).toBe(16 * MIB);
  const first = firstPartBytes(16 * MIB, 300 * 1024 ** 3);
  expect(first * 5000).toBeGreaterThan(600 * 1024 ** 3);
  expect(first % MIB).toBe(0);
});
