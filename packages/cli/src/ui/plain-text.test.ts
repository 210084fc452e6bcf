import { expect, test } from 'vitest';
import { plainLines } from './plain-text.ts';
import { table } from './table.ts';

test('lines from elsewhere reach a terminal without what it would obey, however they were cut', async () => {
  const written: string[] = [];
  const take = plainLines(async (text) => void written.push(text));
  const bytes = Buffer.from('{"comm":"\u009b2Jé\u202e"}\n\x1b]0;title\x07{"a":1}\nrest');
  for (const byte of bytes) await take(Uint8Array.of(byte));
  expect(written.join('')).toBe('{"comm":"2Jé"}\n{"a":1}\n');
  await take(Buffer.from('x'.repeat(1024 * 1024)));
  expect(written.at(-1)).toBe(`rest${'x'.repeat(1024 * 1024)}\n`);
});

test('a table of as many rows as a large fleet has', () => {
  const rows = Array.from({ length: 200_000 }, () => ['web-1', 'x']);
  expect(table(['NODE', 'A'], rows).length).toBe(9 * 200_001);
});
