import { Bandwidth } from '@aegis/protocol/backups/config';
import { expect, test } from 'vitest';
import * as z from 'zod/mini';
import { rateAt, throttle } from './bandwidth.ts';

const of = (input: z.input<typeof Bandwidth>): Bandwidth => z.parse(Bandwidth, input);
const MIB = 1024 * 1024;

test('the first window that holds counts, in its own time zone and over midnight', () => {
  const plan = of({
    upload: 10 * MIB,
    timezone: 'Europe/Berlin',
    windows: [
      { from: '22:00', to: '06:00', days: ['fri', 'sat'] },
      { from: '08:00', to: '18:00', upload: MIB },
      { from: '17:00', to: '19:00', upload: 2 * MIB },
    ],
  });
  const at = (time: string) => rateAt(plan, Date.parse(time));
  // Friday, 1 May 2026; Berlin is two hours ahead.
  expect(at('2026-05-01T05:59:00Z')).toBe(10 * MIB);
  expect(at('2026-05-01T06:00:00Z')).toBe(MIB);
  expect(at('2026-05-01T15:59:00Z')).toBe(MIB);
  expect(at('2026-05-01T16:30:00Z')).toBe(2 * MIB);
  expect(at('2026-05-01T17:00:00Z')).toBe(10 * MIB);
  expect(at('2026-05-01T20:00:00Z')).toBeNull();
  expect(at('2026-05-02T03:59:00Z')).toBeNull(); // Friday's night
  expect(at('2026-05-02T04:00:00Z')).toBe(10 * MIB);
  expect(at('2026-05-03T03:00:00Z')).toBeNull(); // Saturday's
  expect(at('2026-05-03T21:00:00Z')).toBe(10 * MIB); // Sunday has none
  expect(rateAt(of({}), 0)).toBeNull();
});

test('takers together get what the limit gives, in turn', async () => {
  // Time that passes only by waiting: each pause is as long as it says.
  const begun = performance.now();
  const clock = { now: () => 0, monotonic: () => performance.now() - begun };
  const limited = throttle(of({ upload: 10 * MIB }), clock);
  const signal = new AbortController().signal;
  const order: number[] = [];
  const taken = Array.from({ length: 8 }, async (_, nth) => {
    await limited.take(256 * 1024, signal);
    order.push(nth);
  });
  await Promise.all(taken);
  expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  // Seven quarters of a MiB had to be waited for, but for the tenth of a second that the bucket held.
  expect(clock.monotonic()).toBeGreaterThan(((7 * 0.25) / 10 - 0.1) * 1000);
  const stopped = new AbortController();
  const waits = throttle(of({ upload: 1024 }), clock);
  await waits.take(MIB, stopped.signal);
  const more = waits.take(MIB, stopped.signal);
  stopped.abort();
  await more;
});
