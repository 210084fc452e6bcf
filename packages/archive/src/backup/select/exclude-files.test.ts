import { expect, test } from 'vitest';
import { expandVariables, MAX_LINE_BYTES, parseExcludeFile } from './exclude-files.ts';

const ENV = { A: 'a', HOME: '/home/x', EMPTY: '', U: 'ü', DOLLAR: '$A', '1': 'one' };
const textsOf = (bytes: Buffer): string[] | undefined => parseExcludeFile(bytes, ENV)?.map(({ text }) => text);

test('lines, comments, white space, variables', () => {
  const text =
    '\ufeff# comment\n\n  *.log \r\n\t#also a comment\n a b \n$HOME/cache\n$(HOME)x\n$$HOME\n\u00a0\u2003!keep\u3000\nlast'.replace(
      '(HOME)',
      '{HOME}',
    );
  expect(parseExcludeFile(Buffer.from(text), ENV)).toEqual([
    { line: 3, written: '*.log', text: '*.log' },
    { line: 5, written: 'a b', text: 'a b' },
    { line: 6, written: '$HOME/cache', text: '/home/x/cache' },
    { line: 7, written: '$' + '{HOME}x', text: '/home/xx' },
    { line: 8, written: '$$HOME', text: '$HOME' },
    { line: 9, written: '!keep', text: '!keep' },
    { line: 10, written: 'last', text: 'last' },
  ]);
});

test('bytes stay bytes, and other encodings with a mark are converted', () => {
  expect(textsOf(Buffer.from('a\xff\x85b\x85\n', 'latin1'))).toEqual(['a\xff\x85b\x85']);
  const utf16 = Buffer.from('\ufeffä\nb', 'utf16le');
  expect(textsOf(utf16)).toEqual(['\xc3\xa4', 'b']);
  expect(textsOf(Buffer.from(utf16).swap16())).toEqual(['\xc3\xa4', 'b']);
  expect(textsOf(Buffer.alloc(0))).toEqual([]);
});

test('a line of 64 KiB is too long', () => {
  expect(textsOf(Buffer.alloc(MAX_LINE_BYTES, 'x'))).toHaveLength(1);
  expect(textsOf(Buffer.alloc(MAX_LINE_BYTES + 1, 'x'))).toBeUndefined();
});

test.each([
  ['$A$A', 'aa'],
  ['$AB', ''],
  ['$A-B', 'a-B'],
  ['$', '$'],
  ['a$', 'a$'],
  ['$/x', '$/x'],
  ['$ä', '$ä'],
  ['$EMPTY', ''],
  ['$U', '\xc3\xbc'],
  ['$DOLLAR', '$A'],
  ['$1x', 'onex'],
  ['$*', ''],
  ['{A}', '{A}'],
  ['$' + '{A}', 'a'],
  ['$' + '{1}', 'one'],
  ['$' + '{$}', '$'],
  ['$' + '{}x', 'x'],
  ['$' + '{A', 'A'],
  ['$' + '{A B}', ''],
  ['$$$$', '$$'],
])('%s becomes %s', (text, expanded) => {
  expect(expandVariables(text, ENV)).toBe(expanded);
});
