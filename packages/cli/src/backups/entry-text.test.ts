import type { Entry } from '@aegis/archive/backup/manifest/lines';
import { expect, test } from 'vitest';
import { entryLine, modeText, pathJson, pathText } from './entry-text.ts';

test.each([
  ['etc/hosts', 'etc/hosts'],
  ['ünï/文', 'ünï/文'],
  ['a\nb\tc\\d', 'a\\nb\\tc\\\\d'],
  ['\u001b[2Jx\u0007', '\\033[2Jx\\007'],
  ['\u202etxt', '\\342\\200\\256txt'],
])('a name is one line that moves no cursor: %j', (name, text) => expect(pathText(Buffer.from(name))).toBe(text));

test('a name that is not UTF-8', () => {
  const path = Buffer.from([0x61, 0xff, 0x0a, 0x62]);
  expect(pathText(path)).toBe('a\\377\\nb');
  expect(pathJson(path)).toEqual({ path_b64: path.toString('base64') });
  expect(pathJson(Buffer.from('a'))).toEqual({ path: 'a' });
});

test.each([
  ['file', 0o644, '-rw-r--r--'],
  ['directory', 0o1777, 'drwxrwxrwt'],
  ['directory', 0o1776, 'drwxrwxrwT'],
  ['file', 0o4755, '-rwsr-xr-x'],
  ['file', 0o6644, '-rwSr-Sr--'],
  ['symlink', 0o777, 'lrwxrwxrwx'],
  ['socket', 0, 's---------'],
] as const)('%s %o', (kind, mode, text) => expect(modeText({ kind, mode })).toBe(text));

test('a line as ls -l has it', () => {
  const entry: Entry = {
    path: Buffer.from('srv/link'),
    kind: 'symlink',
    mode: 0o777,
    uid: 33,
    gid: 33,
    user: 'www-data',
    group: '',
    size: 0,
    mtime: '1769846400.000000001',
    header_sha256: '',
    target: Buffer.from('/etc\u001b'),
    offset: 0,
    length: 512,
  };
  expect(entryLine(entry)).toBe('lrwxrwxrwx www-data 33                  0 2026-01-31 08:00:00 srv/link -> /etc\\033');
});
