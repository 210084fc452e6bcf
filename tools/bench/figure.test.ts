import { expect, test } from 'vitest';
import { atLeast, atMost, figure } from './figure.ts';
import { tableOf } from './table.ts';

const machine = {
  cpu: 'A CPU',
  cores: 2,
  memoryMb: 8000,
  kernel: '6.1',
  node: '24.0.0',
  date: '2026-01-01',
  load: 0.5,
};

test('a figure is judged by the number that its bar names', () => {
  const samples = [10, 20, 90];
  const base = { name: 'ssh', samples: [40, 40, 100] };
  const judged = (bar: ReturnType<typeof atMost>) =>
    figure('s', { name: 'f', unit: 'ms', samples, comparedWith: base, bar }).met;
  expect([
    judged(atMost(20, 'median')),
    judged(atMost(19, 'median')),
    judged(atMost(89, 'p99')),
    judged(atMost(0.5, 'ratio')),
    judged(atMost(0.49, 'ratio')),
    judged(atLeast(10, 'min')),
    judged(atLeast(91, 'max')),
  ]).toEqual([true, false, false, true, false, true, false]);
});

test('a ratio without a comparison and a figure without measurements miss their bars', () => {
  expect(figure('s', { name: 'f', unit: 'ms', samples: [1], bar: atMost(9, 'ratio') }).met).toBe(false);
  expect(figure('s', { name: 'f', unit: 'ms', samples: [], bar: atMost(9, 'median') }).met).toBe(false);
});

test('the table names the machine, each section once, and what was missed', () => {
  const figures = [
    figure('start', { name: 'node', unit: 'ms', samples: [40] }),
    figure('start', {
      name: 'aegis',
      unit: 'ms',
      samples: [50, 60],
      comparedWith: { name: 'node', samples: [40] },
      bar: atMost(1.3, 'ratio'),
      note: 'a remark',
    }),
    figure('idle', { name: 'memory', unit: 'MB', samples: [61.25], bar: atMost(80, 'max') }),
  ];
  expect(tableOf(machine, figures, { start: 0.5, idle: 2 })).toBe(
    [
      'A CPU, 2 cores, 8000 MB, Linux 6.1, Node.js 24.0.0',
      '2026-01-01',
      '',
      '  figure       median    min – max  bar            ratio',
      '',
      'start (load 0.5)',
      '  node        40.0 ms  40.0 – 40.0',
      '  aegis       55.0 ms  50.0 – 60.0  ≤ 1.3 × node  1.38 ×  MISSED',
      '      a remark',
      '',
      'idle (load 2.0)',
      '  memory  max 61.3 MB  61.3 – 61.3  ≤ 80 MB               met',
    ].join('\n'),
  );
});
