import { expect, test } from 'vitest';
import { fairTurns } from './turns.ts';

/** Counts rounds of the loop while `busy` is. */
const roundsWhile = async (busy: () => boolean): Promise<number> => {
  let rounds = 0;
  while (busy()) {
    await new Promise((resolve) => setImmediate(resolve));
    rounds++;
    if (rounds > 10_000) throw new Error('it never ends');
  }
  return rounds;
};

test('what comes while there is time is done at once', () => {
  const { run } = fairTurns(() => 0);
  const seen: number[] = [];
  const told = Array.from({ length: 100 }, (_, at) => run(() => seen.push(at)));
  expect(told).toEqual(Array.from({ length: 100 }, () => true));
  expect(seen).toEqual(Array.from({ length: 100 }, (_, at) => at));
});

test('beyond the time of a round it waits: in order, few in each round, and timers run in between', async () => {
  let clock = 0;
  const { run } = fairTurns(() => clock, { roundMs: 10, turns: 4 });
  const seen: number[] = [];
  const told: boolean[] = [];
  for (let at = 0; at < 40; at++)
    told.push(
      run(() => {
        clock += 3;
        seen.push(at);
      }),
    );
  expect(told.filter(Boolean).length).toBe(4); // 0, 3, 6 and 9 ms into the round
  let ticks = 0;
  const ticking = setInterval(() => ticks++, 0);
  const rounds = await roundsWhile(() => seen.length < 40);
  expect(rounds).toBeGreaterThanOrEqual(36 / 4 - 1);
  expect(seen).toEqual(Array.from({ length: 40 }, (_, at) => at));
  await new Promise((resolve) => setTimeout(resolve, 2));
  clearInterval(ticking);
  expect(ticks).toBeGreaterThan(0);
  expect(
    run(() => seen.push(40)),
    'free again',
  ).toBe(true);
});

test('those who are woken at once take turns, each with all that follows from it', async () => {
  const { turn } = fairTurns(() => 0, { roundMs: 10, turns: 4 });
  const seen: string[] = [];
  const one = async (at: number): Promise<void> => {
    await turn();
    seen.push(`${at} begins`);
    await null;
    await null;
    seen.push(`${at} ends`);
  };
  const all = Promise.all(Array.from({ length: 12 }, (_, at) => one(at)));
  await null;
  await null;
  await null;
  await null;
  expect(seen.length).toBe(8); // four of them at once, together
  await all;
  expect(seen.slice(8)).toEqual(Array.from({ length: 8 }, (_, at) => [`${at + 4} begins`, `${at + 4} ends`]).flat());
});

test('work that makes work holds up nobody', async () => {
  let clock = 0;
  const { run } = fairTurns(() => clock, { roundMs: 10, turns: 2 });
  const seen: string[] = [];
  run(() => (clock += 100));
  const again = (left: number): void => {
    seen.push(`again ${left}`);
    if (left > 0) run(() => again(left - 1));
  };
  expect(run(() => again(3))).toBe(false);
  expect(run(() => seen.push('another'))).toBe(false);
  await roundsWhile(() => seen.length < 5);
  expect(seen).toEqual(['again 3', 'another', 'again 2', 'again 1', 'again 0']);
});
