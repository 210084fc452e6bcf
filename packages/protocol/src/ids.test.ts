import { expect, test } from 'vitest';
import { isUuid, uuidv7Generator } from './ids.ts';

test('ids rise within one millisecond, across milliseconds and when the clock steps back', () => {
  let now = 1_800_000_000_000;
  const next = uuidv7Generator(() => now);
  const ids: string[] = [];
  for (let i = 0; i < 20_000; i++) {
    if (i === 9_000) now += 5;
    if (i === 12_000) now -= 86_400_000;
    ids.push(next());
  }
  expect(ids.every(isUuid)).toBe(true);
  expect(new Set(ids).size).toBe(ids.length);
  expect([...ids].sort()).toEqual(ids);
  expect(Number.parseInt((ids[0] ?? '').replaceAll('-', '').slice(0, 12), 16)).toBe(1_800_000_000_000);
});
