import { expect, test } from 'vitest';
import { paxRecords, paxTime } from './pax.ts';
import { type TarEntry, tarHeaders } from './tar-header.ts';

const entry = (more: Partial<TarEntry> = {}): TarEntry => ({
  path: Buffer.from('etc/hosts'),
  kind: 'file',
  mode: 0o644,
  uid: 0,
  gid: 0,
  user: 'root',
  group: 'root',
  mtimeSec: 1_700_000_000,
  mtimeNsec: 0,
  dataBytes: 0,
  major: 0,
  minor: 0,
  xattrs: [],
  ...more,
});

/** The PAX records of an entry, and its ustar header. */
const parts = (one: TarEntry): { records: string[]; header: Buffer } => {
  const blocks = Buffer.from(tarHeaders().of(one));
  const header = blocks.subarray(blocks.length - 512);
  if (blocks.length === 512) return { records: [], header };
  const bytes = Number.parseInt(blocks.toString('latin1', 124, 135), 8);
  const records: string[] = [];
  for (let at = 512; at < 512 + bytes; ) {
    const length = Number(/^\d+/.exec(blocks.toString('latin1', at, at + 20))?.[0]);
    const record = blocks.toString('latin1', at, at + length);
    expect(record.endsWith('\n')).toBe(true);
    records.push(record.slice(record.indexOf(' ') + 1, -1));
    at += length;
  }
  expect(blocks.subarray(512 + bytes, blocks.length - 512).every((byte) => byte === 0)).toBe(true);
  expect(blocks.toString('latin1', 0, 10)).toBe('PaxHeader\0');
  return { records, header };
};
const text = (header: Buffer, from: number, length: number): string =>
  header.toString('latin1', from, from + length).replace(/\0+$/, '');

test('what has room in a ustar header is nowhere else', () => {
  const { records, header } = parts(entry());
  expect(records).toEqual([]);
  const fields = [
    [0, 100],
    [100, 8],
    [108, 8],
    [116, 8],
    [124, 12],
    [136, 12],
    [156, 1],
    [257, 8],
    [265, 32],
    [297, 32],
  ];
  expect(fields.map(([from = 0, length = 0]) => text(header, from, length))).toEqual([
    'etc/hosts',
    '0000644',
    '0000000',
    '0000000',
    '00000000000',
    '14524770400',
    '0',
    'ustar\x0000',
    'root',
    'root',
  ]);
});

test('names by length: name, prefix, PAX', () => {
  const path = (...parts: number[]): Buffer =>
    Buffer.from(parts.map((length, at) => String(at).repeat(length)).join('/'));
  const of = (one: Partial<TarEntry>) => {
    const { records, header } = parts(entry(one));
    return [text(header, 345, 155), text(header, 0, 100), ...records];
  };
  const short = path(50, 49).toString();
  expect(of({ path: path(50, 49) })).toEqual(['', short]);
  expect(of({ path: path(50, 50) })).toEqual(['0'.repeat(50), '1'.repeat(50)]);
  expect(of({ path: path(155, 100) })).toEqual(['0'.repeat(155), '1'.repeat(100)]);
  expect(of({ path: path(156, 99) })).toEqual(['', '0'.repeat(100), `path=${path(156, 99)}`]);
  expect(of({ path: path(10, 101) })).toEqual(['', path(10, 101).toString().slice(0, 100), `path=${path(10, 101)}`]);
  // A directory's slash counts, and is no place to split at.
  expect(of({ path: path(99), kind: 'directory' })).toEqual(['', `${path(99)}/`]);
  expect(of({ path: path(100), kind: 'directory' })).toEqual(['', path(100).toString(), `path=${path(100)}/`]);
  expect(of({ path: path(20, 99), kind: 'directory' })).toEqual(['0'.repeat(20), `${'1'.repeat(99)}/`]);
  expect(of({ kind: 'symlink', target: path(100) })).toEqual(['', 'etc/hosts']);
  expect(of({ kind: 'hardlink', target: path(101) })).toEqual(['', 'etc/hosts', `linkpath=${path(101)}`]);
});

test('numbers, times and owners beyond ustar, in one order', () => {
  const { records, header } = parts(
    entry({
      uid: 4_294_967_294,
      gid: 2_097_152,
      user: 'ü',
      group: 'g'.repeat(32),
      dataBytes: 8_589_934_592,
      mtimeSec: -2,
      mtimeNsec: 500_000_000,
      sparseSize: 2 ** 50,
      xattrs: [
        { name: Buffer.from('user.z=%'), value: Buffer.from([0, 10, 255]) },
        {
          name: Buffer.from('system.posix_acl_access'),
          value: Buffer.from('0200000001000600ffffffff20000400ffffffff', 'hex'),
        },
        { name: Buffer.from('system.posix_acl_default'), value: Buffer.from('no ACL') },
        { name: Buffer.from('user.a'), value: Buffer.alloc(0) },
      ],
    }),
  );
  expect(records).toEqual([
    'size=8589934592',
    'uid=4294967294',
    'gid=2097152',
    `uname=${Buffer.from('ü').toString('latin1')}`,
    `gname=${'g'.repeat(32)}`,
    'mtime=-1.500000000',
    'GNU.sparse.major=1',
    'GNU.sparse.minor=0',
    'GNU.sparse.name=etc/hosts',
    `GNU.sparse.realsize=${2 ** 50}`,
    'SCHILY.acl.access=user::rw-,other::r--',
    'SCHILY.xattr.system.posix_acl_default=no ACL',
    'SCHILY.xattr.user.a=',
    'SCHILY.xattr.user.z%3D%25=\0\n\xff',
  ]);
  expect(text(header, 0, 100)).toBe('etc/GNUSparseFile.0/hosts');
  expect([text(header, 108, 8), text(header, 124, 12), text(header, 136, 12), text(header, 265, 32)]).toEqual([
    '7777777',
    '77777777777',
    '00000000000',
    '',
  ]);
  // Nothing of one entry is left in the next.
  const headers = tarHeaders();
  headers.of(entry({ path: Buffer.alloc(5000, 'long'), mtimeNsec: 5 }));
  expect(headers.of(entry()).equals(tarHeaders().of(entry()))).toBe(true);
});

test('a record counts the digits of its own length', () => {
  const records = paxRecords();
  for (const length of [1, 4, 5, 6, 93, 94, 95, 96, 990, 991, 992, 9988, 9989, 70_000]) {
    records.clear();
    records.add('k', 'v'.repeat(length));
    const whole = Buffer.alloc(records.length);
    records.copyTo(whole, 0);
    expect(Number(/^\d+/.exec(whole.toString())?.[0])).toBe(whole.length);
  }
});

test('times before 1970 are decimal numbers', () => {
  expect([
    paxTime(5, 0),
    paxTime(5, 1),
    paxTime(0, 0),
    paxTime(-1, 0),
    paxTime(-1, 500_000_000),
    paxTime(-3, 1),
  ]).toEqual(['5', '5.000000001', '0', '-1', '-0.500000000', '-2.999999999']);
});
