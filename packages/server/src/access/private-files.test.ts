import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createPrivateFile } from './private-files.ts';

/** What is made on a disk that fills up meanwhile: whole, or not at all, and nothing left behind. */

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'aegis-private-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=32k,mode=0700', 'tmpfs', folder]);
});
afterEach(() => {
  execFileSync('umount', [folder]);
  rmSync(folder, { recursive: true, force: true });
});

test('a file for which there is room in part only is not made', () => {
  const text = 'x'.repeat(40 * 1024);
  const path = join(folder, '2.json');
  expect(() => createPrivateFile(path, text)).toThrow(/ENOSPC/);
  expect(readdirSync(folder)).toEqual([]);
  expect(createPrivateFile(path, text.slice(0, 8192))).toBe(true);
  writeFileSync(path, 'another', { flag: 'a' });
  expect(createPrivateFile(path, text.slice(0, 8192))).toBe(false);
  expect(readFileSync(path, 'utf8')).toBe(`${text.slice(0, 8192)}another`);
  expect(readdirSync(folder)).toEqual(['2.json']);
});
