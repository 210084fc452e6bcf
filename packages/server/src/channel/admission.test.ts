import { expect, test } from 'vitest';
import { admission, type Place } from './admission.ts';

const anywhere = (): Place => ({ held: 0, nextAt: 0 });

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
    come: (count: number, together: Place | null = null) => {
      const later: number[] = [];
      for (let nth = 0; nth < count; nth++) {
        const place = together ?? anywhere(); // each from an address of its own, unless they come together
        const wait = one.laterMs(place);
        if (wait !== null) {
          later.push(wait);
          continue;
        }
        under.push(one.begin());
        place.held++;
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

test('one address takes a quarter, and the others find room; a fleet behind it has its moments too', () => {
  const { come, connect } = stage();
  const office = anywhere();
  const { admitted, later } = come(1000, office);
  expect(admitted).toBe(125);
  expect([later[0], later.at(-1)]).toEqual([1002, 1000 + 2 * 875]);
  expect(come(300)).toEqual({ admitted: 300, later: [] });
  connect(125, 2);
  office.held = 0;
  expect([come(200, office).admitted, come(100).admitted]).toEqual([125, 75]); // of the 500 that come at once
});

test('who knocks too often puts nobody else off', () => {
  const { come } = stage();
  come(20_000, anywhere());
  const { later } = come(1000);
  expect(later[0]).toBe(1002);
});

test('however few may come at once, eight of one address are among them', () => {
  expect(stage(10).come(100, anywhere()).admitted).toBe(8);
});
