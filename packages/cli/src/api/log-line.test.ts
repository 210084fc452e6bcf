import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { chunk, execution } from '../../test/scripted-server.ts';
import { parseLogLine } from './log-line.ts';

const lineOf = (value: unknown) => Buffer.from(JSON.stringify(value));

test.each([0, 1, 3000, 5000, 1_000_000])('%i random bytes come out as they went in', (size) => {
  const bytes = randomBytes(size);
  const { data: _data, encoding: _encoding, ...rest } = chunk(bytes, 7) as unknown as Record<string, unknown>;
  expect(parseLogLine(lineOf(chunk(bytes, 7)))).toEqual({ ...rest, bytes });
});

test('text that looks like a chunk inside a chunk stays text', () => {
  const text = `{"type":"chunk","data":"AAAA","encoding":"base64"} \u20ac\\" `.repeat(200);
  const { data: _data, encoding: _encoding, ...rest } = chunk('', 0) as unknown as Record<string, unknown>;
  const bytes = Buffer.from(text);
  expect(parseLogLine(lineOf({ ...rest, data: text, encoding: 'utf8' }))).toEqual({ ...rest, bytes });
});

test('other lines, however long, are as they are', () => {
  const line = {
    type: 'state',
    execution: execution('failed', { error: { code: 'x', message: '"data":"base64"'.repeat(1000) } }),
  };
  expect(parseLogLine(lineOf(line))).toEqual(line);
});
