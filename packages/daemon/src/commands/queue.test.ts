import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Execution, executionOf } from './execution.ts';
import { executionQueue } from './queue.ts';

const execution = (seq: number, priority: number, notBeforeMs: number | null = null): Execution =>
  executionOf(
    {
      seq,
      id: `e${seq}`,
      commandId: `c${seq}`,
      attempt: 1,
      priority,
      delivery: 'at-most-once',
      notBeforeMs,
      expiresAtMs: 1e15,
      outputLimitBytes: 0,
      handedBoot: null,
      begun: false,
      cancelAsked: false,
      report: null,
    },
    { fresh: true },
  );

test('priority first, then arrival, each at its time', () => {
  const queue = executionQueue();
  for (const one of [execution(1, 1), execution(2, 3, 500), execution(3, 0), execution(4, 1), execution(5, 3, 900)])
    queue.add(one);
  expect(queue.size).toBe(5);
  expect(queue.take(100)?.seq).toBe(1);
  expect(queue.nextDueMs()).toBe(500);
  expect(queue.take(500)?.seq).toBe(2);
  expect(queue.remove('e4')).toBe(true);
  expect(queue.remove('e4')).toBe(false);
  expect(queue.take(600)?.seq).toBe(3);
  expect(queue.take(600)).toBeUndefined();
  expect(queue.take(1000)?.seq).toBe(5);
  expect(queue.size).toBe(0);
  expect(queue.nextDueMs()).toBeNull();
});

test('any order of adding leads to the same order of taking', () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ priority: fc.nat(3), due: fc.option(fc.nat(100)) }), { maxLength: 60 }),
      (list) => {
        const queue = executionQueue();
        const all = list.map(({ priority, due }, seq) => execution(seq, priority, due));
        for (const one of all) queue.add(one);
        const taken: number[] = [];
        for (let one = queue.take(1000); one; one = queue.take(1000)) taken.push(one.seq);
        const expected = [...all].sort((a, b) => b.priority - a.priority || a.seq - b.seq).map((one) => one.seq);
        expect(taken).toEqual(expected);
      },
    ),
  );
});
