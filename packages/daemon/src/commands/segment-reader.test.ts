import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { silentLog } from '../platform/log.ts';
import { segmentReader } from './segment-reader.ts';

const dir = mkdtempSync(join(tmpdir(), 'aegis-segments-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const segment = (name: string, complete: boolean) => {
  const path = join(dir, name);
  writeFileSync(path, 'abcdef');
  return { path, offset: 0, bytes: 6, complete };
};
const badDisk = (code: string) => () => {
  throw Object.assign(new Error(`${code}: a bad disk`), { code });
};
const outcomes = (reader: ReturnType<typeof segmentReader>, one: ReturnType<typeof segment>, times: number) =>
  Array.from({ length: times }, () => {
    try {
      return reader.read(one, 0, Buffer.alloc(6));
    } catch (error) {
      return String(error);
    }
  });

test('what is there is read; what is gone or short is planned anew', () => {
  const reader = segmentReader({ log: silentLog() });
  const one = segment('good', true);
  const into = Buffer.alloc(3);
  expect(reader.read(one, 2, into)).toBe(true);
  expect(into.toString()).toBe('cde');
  expect(reader.read(one, 4, into)).toBe(false);
  rmSync(one.path);
  expect(reader.read(one, 0, into)).toBe(false);
});

test('a segment that the disk does not give back is given up after six tries', () => {
  const one = segment('eio', true);
  const reader = segmentReader({ log: silentLog(), readAt: badDisk('EIO') });
  const failed = 'Error: EIO: a bad disk';
  expect(outcomes(reader, one, 6)).toEqual([failed, failed, failed, failed, failed, false]);
  expect(existsSync(one.path)).toBe(false);
});

test.each([
  ['that still grows', 'EIO', false],
  ['whose error may pass', 'EMFILE', true],
])('one %s is never given up', (_, code, complete) => {
  const one = segment(`kept-${code}`, complete);
  const reader = segmentReader({ log: silentLog(), readAt: badDisk(code) });
  expect(outcomes(reader, one, 20)).toEqual(Array.from({ length: 20 }, () => `Error: ${code}: a bad disk`));
  expect(existsSync(one.path)).toBe(true);
});
