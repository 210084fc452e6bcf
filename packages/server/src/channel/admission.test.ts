import { expect, test } from 'vitest';
import { admission } from './admission.ts';

const stage = (most = 1000) => {
  let ms = 1000;
  let activeMs = 0;
  const one = admission({ monotonic: () => ms, activeMs: () => activeMs }, most);
  const under: ((connected: boolean) => void)[] = [];
  return {
    pass: (more: number) => {
      ms += more;
    },
    /** How many of so many are let in, and when the others are to come. */
    come: (count: number) => {
      const later: number[] = [];
      for (let nth = 0; nth < count; nth++) {
        const wait = one.laterMs();
        if (wait === null) under.push(one.begin());
        else later.push(wait);
      }
      return { admitted: count - later.length, later };
    },
    /** The eldest connect, one each so many milliseconds. */
    connect: (count: number, everyMs: number, idleMs = 0) => {
      for (const done of under.splice(0, count)) {
        ms += everyMs + idleMs;
        activeMs += everyMs;
        done(true);
      }
    },
    leave: (count: number) => {
      for (const done of under.splice(0, count)) done(false);
    },
  };
};

test('a herd: as many as take a second begin, and each of the others has a later moment at the same pace', () => {
  const { come } = stage();
  const { admitted, later } = come(3000);
  expect(admitted).toBe(500); // at the first guess of 2 ms
  expect(later).toHaveLength(2500);
  expect([later[0], later.at(-1)]).toEqual([1002, 1000 + 2 * 2500]);
  expect(later).toEqual([...later].sort((a, b) => a - b));
});

test('a slow machine lets fewer begin, and spreads the others over longer; a fast one the other way round', () => {
  for (const [eachMs, least, most] of [
    [10, 90, 130],
    [0.5, 900, 1000],
  ] as const) {
    const { come, connect } = stage();
    come(500);
    for (let round = 0; round < 60; round++) {
      connect(100, eachMs);
      come(100);
    }
    connect(1000, eachMs);
    const { admitted, later } = come(3000);
    expect(admitted).toBeGreaterThanOrEqual(least);
    expect(admitted).toBeLessThanOrEqual(most);
    const between = ((later[100] ?? 0) - (later[0] ?? 0)) / 100;
    expect(between / eachMs).toBeGreaterThan(0.8);
    expect(between / eachMs).toBeLessThan(1.5);
  }
});

test('now and then one from far away says nothing of the pace', () => {
  const { come, connect } = stage();
  for (let nth = 0; nth < 1000; nth++) {
    come(1);
    connect(1, 500);
  }
  expect(come(3000).admitted).toBe(500);
});

test('nodes that answer slowly are not taken for a slow server', () => {
  const { come, connect } = stage();
  come(500);
  for (let round = 0; round < 60; round++) {
    connect(100, 2, 8);
    come(100);
  }
  connect(1000, 2);
  expect(come(3000).admitted).toBeGreaterThan(400);
});

test('who only opens a connection does not keep the others out', () => {
  const { come, pass, leave } = stage();
  expect(come(600).admitted).toBe(500);
  pass(4000);
  expect(come(600).admitted).toBe(500);
  leave(1000);
  expect(come(600).admitted).toBe(500);
});

test('nobody is sent away for longer than half a minute', () => {
  const { come } = stage();
  const { later } = come(100_000);
  expect(Math.max(...later)).toBeLessThanOrEqual(30_000);
  expect(Math.min(...later)).toBeGreaterThanOrEqual(1000);
});

test('no more than may be there without having shown who they are', () => {
  expect(stage(10).come(100).admitted).toBe(10);
});
