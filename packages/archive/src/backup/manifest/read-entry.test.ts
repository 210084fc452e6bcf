import { expect, test } from 'vitest';
import * as z from 'zod/mini';
import { EntryLine } from './lines.ts';
import { readEntry } from './read-entry.ts';

const SHA = 'ab'.repeat(32);
/** In the order in which they are written. */
const FIELDS = [
  'type',
  'path',
  'path_b64',
  'kind',
  'mode',
  'uid',
  'gid',
  'user',
  'group',
  'size',
  'mtime',
  'sha256',
  'header_sha256',
  'target',
  'target_b64',
  'sparse',
  'status',
  'offset',
  'length',
];
const base = {
  type: 'entry',
  kind: 'file',
  mode: 420,
  uid: 0,
  gid: 0,
  user: 'u',
  group: 'g',
  size: 1,
  mtime: '0.000000000',
  header_sha256: SHA,
  offset: 0,
  length: 512,
};
const FILE = { ...base, path: 'a/b', sha256: SHA };
const LINK = { ...base, path_b64: '/w==', kind: 'symlink', target: 'x' };
const HARD = { ...base, path: 'a', kind: 'hardlink', target_b64: '/w==' };

const ODD: unknown[] = [
  undefined,
  null,
  true,
  false,
  '',
  'x',
  '\u0000',
  '\ud800',
  'ü',
  'x'.repeat(1024),
  'x'.repeat(1025),
  0,
  -1,
  1,
  0.5,
  511,
  512,
  4095,
  4096,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 53 - 512,
  2 ** 53,
  1e300,
  '0',
  '0.0',
  '1.000000000',
  '-1.999999999',
  '-0.000000000',
  '01.000000000',
  '1.0000000000',
  `${'9'.repeat(19)}.000000000`,
  `${'9'.repeat(20)}.000000000`,
  ['0.000000000'],
  [SHA],
  SHA,
  SHA.slice(1),
  SHA.toUpperCase(),
  '/w==',
  '/w',
  '/x==',
  'YQ==',
  '!',
  'file',
  'directory',
  'symlink',
  'hardlink',
  'socket',
  'door',
  'changed',
  'unreadable-part',
  'gone',
  {},
  [],
  [512],
];

const textOf = (value: Record<string, unknown>): string =>
  JSON.stringify(Object.fromEntries(FIELDS.flatMap((key) => (value[key] === undefined ? [] : [[key, value[key]]]))));
const reads = (text: string): boolean => {
  const refused = new Error('refused');
  try {
    readEntry(JSON.parse(text), text, () => refused);
    return true;
  } catch (fault) {
    if (fault === refused) return false;
    throw fault;
  }
};

test('good ones', () => {
  for (const value of [FILE, LINK, HARD]) expect(reads(textOf(value)), textOf(value)).toBe(true);
});

test('with any field of any kind: what is read, the schema takes too', () => {
  const counts = { read: 0, taken: 0 };
  for (const value of [FILE, LINK, HARD])
    for (const field of FIELDS.slice(1))
      for (const odd of ODD) {
        const text = textOf({ ...value, [field]: odd });
        const taken = z.safeParse(EntryLine, JSON.parse(text)).success;
        const read = reads(text);
        if (read) counts.read += 1;
        if (taken) counts.taken += 1;
        if (read) expect(taken, text).toBe(true);
        // The schema looks at fields one by one; beyond names, what belongs to a kind, and what is optional, both must agree.
        if (!/^(path|target|kind|sha256|sparse|length)/.test(field)) expect(read, text).toBe(taken);
      }
  expect(counts.read).toBeGreaterThan(100);
  expect(counts.taken).toBeGreaterThan(counts.read);
});

test('every other text of the same entry is refused', () => {
  const text = textOf(FILE);
  const others = [
    text.replace('{', '{ '),
    text.replace('"uid":0,"gid":0', '"gid":0,"uid":0'),
    text.replace('"uid":0', '"uid":0,"uid":0'),
    text.replace('"uid":0', '"uid":-0'),
    text.replace('"size":1', '"size":1.0'),
    text.replace('a/b', 'a\\/b'),
    text.replace('}', ',"x":1}'),
    text.replace('}', ',"__proto__":{"mode":0}}'),
  ];
  for (const other of others) expect(reads(other), other).toBe(false);
});
