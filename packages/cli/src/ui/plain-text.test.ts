import { expect, test } from 'vitest';
import { plainLines } from './plain-text.ts';
import { facts, table } from './table.ts';

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

test('heads and keys come from elsewhere too', () => {
  expect(table(['NODE', 'a\x1b[2J@1'], [['web-1', '\x1b[2Jx']])).toBe('NODE   a@1\nweb-1  x\n');
  expect(facts([['\x1b[2Jkey', '\x1b[2Jvalue']])).toBe('key: value\n');
});
