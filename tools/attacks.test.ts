import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

/** docs/attacks.md names tests that exist. */

const root = join(import.meta.dirname, '..');
const rows = readFileSync(join(root, 'docs', 'attacks.md'), 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('| ') && !line.startsWith('| attack '))
  .map((line) => line.slice(2, -2).split(' | '));

/** As a string stands in a source file. */
const spelt = (name: string): string[] => [`'${name}'`, `"${name}"`, `\`${name}\``, `${name}:`];
const absent = ([attack = '', file = '', name = '', ...more]: string[]): string[] => {
  if (more.length > 0 || !existsSync(join(root, file))) return [`${attack}: no file '${file}'`];
  const source = readFileSync(join(root, file), 'utf8');
  return name
    .split(' › ')
    .filter((part) => !spelt(part).some((text) => source.includes(text)))
    .map((part) => `${attack}: ${file} has no test '${part}'`);
};

test('each attack has its test', () => {
  expect(rows.length).toBeGreaterThan(50);
  expect(rows.flatMap(absent)).toEqual([]);
});

test('each attack, and each test, stands there once', () => {
  for (const column of [0, 2]) {
    const texts = rows.map((row) => (column === 0 ? row[0] : row.slice(1).join(' | ')));
    expect(texts.filter((text, at) => texts.indexOf(text) !== at)).toEqual([]);
  }
});
