import fc from 'fast-check';
import { expect, test } from 'vitest';
import { planOutput, type SegmentExtent, tailBytesOf } from './output-limit.ts';

const SEGMENT = 8;
const SPOOL = 64;

/** A command that writes `total` bytes into segments as aegis-exec does, and a server that stores what it is sent. */
const simulate = (total: number, limitBytes: number, writes: number[], maxBytes: number, forgets: number[]) => {
  let segments: SegmentExtent[] = [];
  let written = 0;
  let next = 0;
  let greatestSpool = 0;
  let bytes: number[] = [];
  const gaps: { offset: number; length: number; reason: string }[] = [];
  const write = (count: number): void => {
    for (let left = Math.min(count, total - written); left > 0; ) {
      const used = segments.reduce((sum, one) => sum + one.bytes, 0);
      if (used >= SPOOL) return; // a full spool stops the command
      let last = segments.at(-1);
      if (!last || last.bytes === SEGMENT) {
        if (last) last.complete = true;
        last = { offset: written, bytes: 0, complete: false };
        segments.push(last);
      }
      const some = Math.min(left, SEGMENT - last.bytes, SPOOL - used);
      last.bytes += some;
      written += some;
      left -= some;
    }
  };
  const drain = (ended: boolean): boolean => {
    for (let steps = 0; steps < 10_000; steps++) {
      greatestSpool = Math.max(
        greatestSpool,
        segments.reduce((sum, one) => sum + one.bytes, 0),
      );
      const plan = planOutput({ next, segments, total: ended ? total : null, limitBytes, spoolBytes: SPOOL }, maxBytes);
      for (const offset of plan.drop) expect(segments.find((one) => one.offset === offset)?.complete).toBe(true);
      segments = segments.filter((one) => !plan.drop.includes(one.offset));
      const { send } = plan;
      if (!send) return plan.finished;
      expect(send.offset).toBe(next);
      expect(send.length).toBeGreaterThan(0);
      if (send.kind === 'bytes') for (let n = 0; n < send.length; n++) bytes.push(send.offset + n);
      else gaps.push(send);
      next += send.length;
    }
    throw new Error('no end in sight');
  };
  for (const [index, count] of writes.entries()) {
    write(count);
    drain(false);
    if (forgets.includes(index)) {
      // The server was restored from a backup: it expects bytes again that it once acknowledged.
      next = Math.floor(next / 2);
      bytes = bytes.filter((at) => at < next);
      gaps.splice(0);
    }
  }
  for (let stuck = 0; written < total; stuck++) {
    expect(stuck).toBeLessThan(100_000);
    write(SEGMENT);
    drain(false);
  }
  for (const one of segments) one.complete = true;
  expect(drain(true)).toBe(true);
  return { next, bytes, gaps, greatestSpool };
};

const sizes = fc.array(fc.nat(40), { maxLength: 40 });

test('without a limit every byte is sent once, in order', () => {
  fc.assert(
    fc.property(fc.nat(600), sizes, fc.integer({ min: 1, max: 20 }), (total, writes, maxBytes) => {
      const { bytes, gaps, next, greatestSpool } = simulate(total, 0, writes, maxBytes, []);
      expect(bytes).toEqual(Array.from({ length: total }, (_, at) => at));
      expect(gaps).toEqual([]);
      expect(next).toBe(total);
      expect(greatestSpool).toBeLessThanOrEqual(SPOOL);
    }),
  );
});

test('with a limit head and tail are sent, and one gap stands for all between', () => {
  fc.assert(
    fc.property(
      fc.nat(600),
      fc.integer({ min: 1, max: 200 }),
      sizes,
      fc.integer({ min: 1, max: 20 }),
      (total, limit, writes, maxBytes) => {
        const { bytes, gaps, next } = simulate(total, limit, writes, maxBytes, []);
        const tail = tailBytesOf(limit, SPOOL);
        const head = limit - tail;
        expect(next).toBe(total);
        const all = Array.from({ length: total }, (_, at) => at);
        if (total <= limit) {
          expect(bytes).toEqual(all);
          expect(gaps).toEqual([]);
        } else {
          expect(bytes).toEqual([...all.slice(0, head), ...all.slice(total - tail)]);
          expect(gaps).toEqual([
            expect.objectContaining({ offset: head, length: total - limit, reason: 'output_limit' }),
          ]);
        }
      },
    ),
  );
});

test('a server that forgets gets bytes or a gap for every offset, never both', () => {
  fc.assert(
    fc.property(fc.nat(600), fc.nat(200), sizes, fc.array(fc.nat(40)), (total, limit, writes, forgets) => {
      const { bytes, gaps, next } = simulate(total, limit, writes, 16, forgets);
      expect(next).toBe(total);
      const held = [...bytes, ...gaps.flatMap(({ offset, length }) => Array.from({ length }, (_, n) => offset + n))];
      expect(new Set(held).size).toBe(held.length);
    }),
  );
});

test('a hole that a crash tore is told from bytes that were freed', () => {
  const segments = [
    { offset: 8, bytes: 3, complete: true },
    { offset: 16, bytes: 8, complete: true },
  ];
  const plan = (next: number) => planOutput({ next, segments, total: 30, limitBytes: 0, spoolBytes: SPOOL }, 100).send;
  expect(plan(0)).toEqual({ kind: 'gap', offset: 0, length: 8, reason: 'freed_after_ack' });
  expect(plan(8)).toEqual({ kind: 'bytes', segment: 0, position: 0, offset: 8, length: 3 });
  expect(plan(11)).toEqual({ kind: 'gap', offset: 11, length: 5, reason: 'supervisor_lost' });
  expect(plan(24)).toEqual({ kind: 'gap', offset: 24, length: 6, reason: 'supervisor_lost' });
  expect(plan(30)).toBeNull();
  expect(plan(99)).toBeNull();
});
