import { expect, test } from 'vitest';
import { compileGlob } from './glob.ts';
import { lowerCase } from './runes.ts';

const utf8 = (text: string): string => Buffer.from(text, 'utf8').toString('latin1');

/** As Go's filepath.Match answers; text is a char a byte where it is no ASCII. */
test.each<[string, string, boolean]>([
  ['abc', 'abc', true],
  ['*', 'abc', true],
  ['*', '', true],
  ['*c', 'abc', true],
  ['a*', 'a', true],
  ['a*b*c*d*e*', 'axbxcxdxe', true],
  ['a*b?c*x', 'abxbbxdbxebxczzx', true],
  ['a*b?c*x', 'abxbbxdbxebxczzy', false],
  ['ab[c]', 'abc', true],
  ['ab[b-d]', 'abc', true],
  ['ab[e-g]', 'abc', false],
  ['ab[^c]', 'abc', false],
  ['ab[^e-g]', 'abc', true],
  ['ab[!c]', 'abc', true], // no negation for Go: one of ! and c
  ['ab[!c]', 'abd', false],
  ['a\\*b', 'a*b', true],
  ['a\\*b', 'ab', false],
  ['[\\]a]', ']', true],
  ['[\\-]', '-', true],
  ['[x\\-]', '-', true],
  ['[z-a]', 'b', false],
  ['*x', 'xxx', true],
  ['***', 'x', true],
  ['a?b', utf8('aäb'), true],
  ['a??b', utf8('aäb'), false],
  ['?', '\xff', true],
  ['?', '\xff\xfe', false],
  ['??', '\xff\xfe', true],
  [utf8('[ä-ü]'), utf8('ö'), true],
  [utf8('[ä-ü]'), 'o', false],
  [utf8('[\ufffd]'), '\xff', true], // what is no UTF-8 is U+FFFD
  ['[^a]', '\xc3', true],
  ['*\xa4', utf8('ä'), true], // a star takes half a character
  ['\xc3?', utf8('ä'), true],
  ['?\xa4', utf8('ä'), false], // the question mark takes it whole
  ['', '', true],
  ['', 'a', false],
  ['a]', 'a]', true],
])('%j and %j: %s', (pattern, name, expected) => {
  expect(compileGlob(pattern)?.(name)).toBe(expected);
});

test.each([
  '[',
  '[a',
  '[]',
  '[]a]',
  '[-]',
  '[x-]',
  '[a-',
  '[-x]',
  '[^',
  '[^bc',
  'a[',
  '*[',
  '\\',
  'a\\',
  '[\\',
  '[a\\',
  '[a-b-c]',
  '[\xff]',
  'a*[]*b',
])('malformed: %j', (pattern) => {
  expect(compileGlob(pattern)).toBeNull();
});

test('a pattern that takes other matchers ages is answered at once', () => {
  const glob = compileGlob(`${'a*'.repeat(1000)}b`);
  expect(glob?.('a'.repeat(10_000))).toBe(false);
});

test.each<[string, string]>([
  ['ABC.txt', 'abc.txt'],
  [utf8('ÄÖ'), utf8('äö')],
  [utf8('İ'), 'i'],
  [utf8('ΑΣ'), utf8('ας'.replace('ς', 'σ'))],
  ['A\xff', utf8('a\ufffd')],
  ['A\xc3', utf8('a\ufffd')],
  [utf8('K'), 'k'], // KELVIN SIGN
  [utf8('ẞ'), utf8('ß')],
  ['\xed\xa0\x80', utf8('\ufffd\ufffd\ufffd')], // a surrogate
  ['\xf5A', utf8('\ufffda')],
])('%j in lower case is %j', (text, lower) => {
  expect(lowerCase(text)).toBe(lower);
});
