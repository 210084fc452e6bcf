import { expect, test } from 'vitest';
import { PathOrder } from './path-order.ts';

const deep = (levels: number, name: string): Buffer => Buffer.from(`${'a/'.repeat(levels)}${name}`);

test('a manifest whose order makes a reader remember too much is refused, at once', () => {
  const order = new PathOrder();
  order.accept(Buffer.from('z'));
  expect(() => order.accept(deep(100_000, 'x'))).toThrow(
    expect.objectContaining({ code: 'backups.bad_manifest', details: { reason: 'limit' } }),
  );
});

test('folders are remembered once, and some thousands are no matter', () => {
  const order = new PathOrder();
  order.accept(Buffer.from('z'));
  for (let at = 0; at < 20_000; at++) order.accept(Buffer.from(`a/b${at % 5000}/x`));
  expect(order.sorted).toBe(false);
  expect(order.scattered.size).toBe(5002);
});
