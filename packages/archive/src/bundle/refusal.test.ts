import { expect, test } from 'vitest';
import { plain, quoted } from './refusal.ts';

test.each([
  ['a.o', "'a.o'"],
  ['\x1b[2J', "'\\u{1b}[2J'"],
  ['a\u202eb\u2028c', "'a\\u{202e}b\\u{2028}c'"],
  ['\ud800', "'\\u{d800}'"],
  ['naïve – 拦截', "'naïve – 拦截'"],
])('%j is shown as %s', (text, shown) => {
  expect(quoted(text)).toBe(shown);
});

test('what is long is cut', () => {
  expect(plain('x'.repeat(1_000_000))).toBe(`${'x'.repeat(160)}…`);
  expect(plain('\0'.repeat(1_000_000)).length).toBeLessThan(165);
});
