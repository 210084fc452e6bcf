import { expect, test } from 'vitest';
import { sparseLayout } from './sparse.ts';

const mapOf = (bounds: number[], size: number, most?: number): string | undefined => {
  const layout = sparseLayout(Float64Array.from(bounds), size, most);
  expect(layout === null || layout.map.length % 512 === 0).toBe(true);
  return layout?.map.toString().replace(/\0+$/, '');
};

test('a map ends where the file ends', () => {
  expect(mapOf([], 100)).toBe('1\n100\n0\n');
  expect(mapOf([0, 10], 100)).toBe('2\n0\n10\n100\n0\n');
  expect(mapOf([20, 30, 90, 100], 100)).toBe('2\n20\n10\n90\n10\n');
  // A file that shrank since: nothing beyond its size.
  expect(mapOf([20, 30, 90, 120, 130, 140], 100)).toBe('2\n20\n10\n90\n10\n');
  expect(sparseLayout(Float64Array.of(20, 30, 90, 100), 100)?.dataBytes).toBe(512 + 20);
});

test('a file without holes is none', () => {
  expect([mapOf([0, 100], 100), mapOf([0, 50, 50, 100], 100), mapOf([0, 120], 100)]).toEqual([
    undefined,
    undefined,
    undefined,
  ]);
});

test('beyond the bound the smallest holes are filled', () => {
  const bounds = [0, 10, 12, 20, 50, 60, 61, 70, 90, 95];
  expect(mapOf(bounds, 95, 3)).toBe('3\n0\n20\n50\n20\n90\n5\n');
  expect(mapOf(bounds, 95, 1)).toBeUndefined();
  // Of holes of one length the first ones.
  expect(mapOf([0, 1, 2, 3, 4, 5, 6, 7], 7, 3)).toBe('3\n0\n3\n4\n1\n6\n1\n');
});
