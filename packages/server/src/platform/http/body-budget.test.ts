import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { bodyBudget } from './body-budget.ts';

const MIB = 1024 * 1024;

test('one caller leaves most of the budget to the others', () => {
  const budget = bodyBudget(64 * MIB);
  const leases = [budget.lease('a'), budget.lease('a'), budget.lease('a')];
  leases[0]?.hold(8 * MIB);
  leases[1]?.hold(8 * MIB);
  expect(() => leases[2]?.hold(128 * 1024)).toThrow(/at once/);
  leases[2]?.hold(64 * 1024);
  budget.lease('b').hold(16 * MIB);
  for (const lease of leases) lease.release();
  budget.lease('a').hold(16 * MIB);
});

test('packed bodies of one caller do not stand before those of others', async () => {
  const budget = bodyBudget(64 * MIB);
  const order: string[] = [];
  const unpack = (caller: string) =>
    budget.lease(caller).unpacking(async () => {
      await nextTurn();
      order.push(caller);
    });
  await Promise.all([...Array.from({ length: 100 }, () => unpack('a')), unpack('b'), unpack('c')]);
  expect(order.slice(0, 3).sort()).toEqual(['a', 'b', 'c']);
  expect(order).toHaveLength(102);
});
