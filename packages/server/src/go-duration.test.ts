import { expect, test } from 'vitest';
import { secondsOf } from './go-duration.ts';

test.each([
  ['24h', 86_400],
  ['1h30m', 5400],
  ['1h', 3600],
  ['90s', 90],
  ['1500ms', null],
  ['2000ms', 2],
  ['1.5h', 5400],
  ['0.5s', null],
  ['10', null],
  ['', null],
  ['-1h', null],
  ['1d', null],
  ['1h ', null],
  ['h', null],
])('%s', (text, seconds) => {
  expect(secondsOf(text)).toBe(seconds);
});
