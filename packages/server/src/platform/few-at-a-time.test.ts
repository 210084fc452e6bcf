import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { fewAtATime } from './few-at-a-time.ts';

test('no more than so many at once, in their order, and one that fails holds up nobody', async () => {
  const few = fewAtATime(3);
  const begun: number[] = [];
  let underWay = 0;
  let most = 0;
  const work = (at: number) =>
    few(async () => {
      begun.push(at);
      most = Math.max(most, ++underWay);
      await nextTurn();
      underWay--;
      if (at % 4 === 0) throw new Error(`no ${at}`);
      return at;
    }).catch((error: unknown) => String(error));
  const all = await Promise.all(Array.from({ length: 10 }, (_, at) => work(at)));
  expect(all).toEqual(['Error: no 0', 1, 2, 3, 'Error: no 4', 5, 6, 7, 'Error: no 8', 9]);
  expect(begun).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect([most, underWay]).toEqual([3, 0]);
  expect(await few(async () => 'again')).toBe('again');
});
