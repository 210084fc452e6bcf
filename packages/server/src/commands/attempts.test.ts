import { isUuid, uuidv7Generator } from '@aegis/protocol/ids';
import { expect, test } from 'vitest';
import { backoffMs, nextAttemptId } from './attempts.ts';

test('pauses double up to an hour, with at most a fifth on top', () => {
  const pauses = (random: number) => [1, 2, 3, 20].map((attempt) => backoffMs(5000, attempt, () => random));
  expect(pauses(0)).toEqual([5000, 10_000, 20_000, 3_600_000]);
  expect(pauses(1)).toEqual([6000, 12_000, 24_000, 4_320_000]);
  expect(backoffMs(0, 5, () => 1)).toBe(0);
});

test('the next attempt’s id is a UUIDv7 of the same time, always the same and never the one before', () => {
  const newId = uuidv7Generator(() => 1_700_000_000_000);
  const ids = new Set<string>();
  for (let id = newId(), attempt = 1; attempt <= 20; attempt++, id = nextAttemptId(id)) {
    expect(isUuid(id)).toBe(true);
    expect(id.slice(0, 15)).toBe('018bcfe5-6800-7');
    expect(nextAttemptId(id)).toBe(nextAttemptId(id));
    ids.add(id);
  }
  expect(ids.size).toBe(20);
});
