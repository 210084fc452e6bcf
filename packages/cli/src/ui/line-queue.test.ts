import { expect, test } from 'vitest';
import { lineQueue } from './line-queue.ts';
import { type Output, ReaderGone } from './output.ts';

const outputOf = (out: (text: string) => Promise<void>): Output => ({
  outIsTerminal: false,
  errIsTerminal: false,
  colour: false,
  out: (bytes) => out(String(bytes)),
  err: async () => undefined,
});

test('lines that come while the pipe is busy go out together, in order', async () => {
  const written: string[] = [];
  const queue = lineQueue(
    outputOf(async (text) => {
      await Promise.resolve();
      written.push(text);
    }),
    () => undefined,
  );
  for (const line of ['a', 'b', 'c']) queue.line(line);
  await queue.flush();
  queue.line('d');
  await queue.flush();
  expect(written).toEqual(['a\n', 'b\nc\n', 'd\n']);
});

test('a reader that went away is told once, and at the end', async () => {
  let gone = 0;
  const queue = lineQueue(
    outputOf(async () => {
      throw new ReaderGone('gone');
    }),
    () => {
      gone++;
    },
  );
  queue.line('a');
  await expect(queue.flush()).rejects.toThrow(ReaderGone);
  queue.line('b');
  await expect(queue.flush()).rejects.toThrow(ReaderGone);
  expect(gone).toBe(1);
});
