import fc from 'fast-check';
import { expect, test } from 'vitest';
import { newExecution } from './changes.ts';
import { type ChunkPlan, planChunks, ROW_BYTES } from './chunk-plan.ts';
import { advanceOutput } from './report-effects.ts';

const execution = () =>
  newExecution({
    id: 'e',
    command: { id: 'c', priority: 1, expires_at: 10, scheduled_at: null },
    node: { uid: 'u', name: 'n' },
    attempt: 1,
    notBefore: null,
    now: 0,
  });
const stored = (plans: readonly ChunkPlan[]): Buffer =>
  Buffer.concat(plans.flatMap((plan) => plan.rows.map((row) => row.bytes ?? Buffer.alloc(0))));

test('whatever order, overlap and repetition: what is stored is a prefix of the source, and all of it once all was sent', () => {
  const source = Buffer.from(Array.from({ length: 200 }, (_, at) => at));
  const piece = fc.tuple(fc.nat(199), fc.integer({ min: 1, max: 60 })).map(([at, length]) => ({ at, length }));
  fc.assert(
    fc.property(fc.array(fc.array(piece, { minLength: 1, maxLength: 5 }), { maxLength: 20 }), (pushes) => {
      const row = execution();
      const plans: ChunkPlan[] = [];
      const push = (pieces: readonly { at: number; length: number }[]) => {
        const chunks = pieces.map(({ at, length }) => ({
          stream: 'stdout' as const,
          offset: at,
          bytes: source.subarray(at, at + length),
        }));
        const plan = planChunks(row, chunks, 0, 0);
        advanceOutput(row, plan);
        plans.push(plan);
        expect(plan.next.stdout).toBe(row.stdout_next);
        expect(stored(plans)).toEqual(source.subarray(0, row.stdout_next));
        expect(Buffer.concat(plan.added.map(({ bytes }) => bytes))).toEqual(stored([plan]));
      };
      for (const pieces of pushes) push(pieces);
      push([{ at: row.stdout_next, length: 200 }]);
      expect(stored(plans)).toEqual(source);
    }),
  );
});

test('rows are slices of at most 1 MiB, tiny chunks join, a chunk ahead stores nothing of itself', () => {
  const bytes = Buffer.alloc(ROW_BYTES * 2 + 5, 7);
  const large = planChunks(execution(), [{ stream: 'stderr', offset: 0, bytes }], 0, 3);
  expect(large.rows.map(({ stream, start, length, stored_at }) => [stream, start, length, stored_at])).toEqual([
    [2, 0, ROW_BYTES, 3],
    [2, ROW_BYTES, ROW_BYTES, 3],
    [2, ROW_BYTES * 2, 5, 3],
  ]);
  expect(large.rows[0]?.bytes?.buffer).toBe(bytes.buffer); // no copy
  const tiny = ['a', 'b', 'c'].map((text, offset) => ({ stream: 'stdout' as const, offset, bytes: Buffer.from(text) }));
  expect(planChunks(execution(), tiny, 0, 0).rows.map((row) => row.bytes?.toString())).toEqual(['abc']);
  const ahead = planChunks(execution(), [...tiny, { stream: 'stdout', offset: 9, bytes: Buffer.from('x') }], 0, 0);
  expect([ahead.error?.code, ahead.next.stdout, ahead.rows.length]).toEqual(['commands.offset_ahead', 3, 1]);
});
