import { Excludes } from '@aegis/protocol/backups/config';
import { AegisError } from '@aegis/protocol/errors';
import { expect, test } from 'vitest';
import { selectionOf } from './select.ts';
import type { DirectoryView } from './selection.ts';

const make = (excludes: Partial<Excludes>, { sources = ['/src'], files = {} as Record<string, string> } = {}) =>
  selectionOf({
    excludes: Excludes.parse(excludes),
    sources: sources.map((source) => Buffer.from(source, 'latin1')),
    readFile: async (path) => {
      const text = files[path];
      if (text === undefined) throw new Error(`ENOENT: /secret/place`);
      return Buffer.from(text, 'latin1');
    },
    env: { SECRET: '[hunter2', NAME: 'x' },
  });
const included = async (excludes: Partial<Excludes>, paths: string[], more = {}): Promise<string[]> => {
  const selection = await make(excludes, more);
  return paths.filter((path) => selection.includesPath(Buffer.from(path, 'latin1')));
};

test('a source is never excluded, nor what lies below it by what fits the source alone', async () => {
  const paths = ['/data/tmp/src/a', '/data/tmp/src/tmp', '/data/tmp/src/b/src'];
  const sources = ['//data/./tmp//src/'];
  for (const patterns of [['tmp'], ['src'], ['/data'], ['/data/tmp/src'], ['tmp/src'], ['data/**/src']])
    expect(await included({ patterns }, ['/data/tmp/src/a'], { sources })).toEqual(['/data/tmp/src/a']);
  expect(await included({ patterns: ['tmp'] }, paths, { sources })).toEqual([paths[0], paths[2]]);
  expect(await included({ patterns: ['src'] }, paths, { sources })).toEqual([paths[0], paths[1]]);
  expect(await included({ patterns: ['tmp/src/tmp'] }, paths, { sources })).toEqual([paths[0], paths[2]]);
  expect(await included({ patterns: ['/data/tmp/src/**'] }, paths, { sources })).toEqual([]);
  expect(await included({ ipatterns: ['TMP'] }, paths, { sources })).toEqual([paths[0], paths[2]]);
  expect(await included({ patterns: ['x'] }, ['/x', '/y'], { sources: ['/'] })).toEqual(['/y']);
});

test('of several sources the nearest counts', async () => {
  const sources = ['/a', '/a/b/c'];
  expect(await included({ patterns: ['b'] }, ['/a/b', '/a/b/c/d', '/a/b/c/b', '/a/x'], { sources })).toEqual([
    '/a/b/c/d',
    '/a/x',
  ]);
});

test('patterns of restic, by its own examples', async () => {
  const paths = ['/src/foo', '/src/foobar', '/src/dir/foo', '/src/foo.c', '/src/a/b/c/foo.c', '/src/work/foo'];
  expect(await included({ patterns: ['foo'] }, paths)).toEqual(['/src/foobar', '/src/foo.c', '/src/a/b/c/foo.c']);
  expect(await included({ patterns: ['/src/foo/'] }, paths)).toEqual(paths.slice(1));
  expect(await included({ patterns: ['*.c', '!/src/a/**/foo.c'] }, paths)).toEqual(
    paths.filter((path) => path !== '/src/foo.c'),
  );
  expect(await included({ patterns: ['!foo'] }, paths)).toEqual(paths);
  expect(await included({ patterns: ['/foo'] }, paths)).toEqual(paths);
  expect(await included({ patterns: ['/src/**/foo'] }, paths)).toEqual([
    '/src/foobar',
    '/src/foo.c',
    '/src/a/b/c/foo.c',
  ]);
});

test('exclude files are read in their order behind the patterns, so that they can take back', async () => {
  const files = { '/one': '!keep.log\n$NAME\n', '/two': '*.TMP\n' };
  const paths = ['/src/keep.log', '/src/a.log', '/src/x', '/src/b.tmp', '/src/B.TMP'];
  expect(await included({ patterns: ['*.log'], files: ['/one'], ifiles: ['/two'] }, paths, { files })).toEqual([
    '/src/keep.log',
  ]);
});

const view = (members: Record<string, string>, device = 1): DirectoryView => ({
  path: Buffer.from('/src/d'),
  device,
  sourceDevice: 1,
  has: (name) => name.toString() in members,
  read: (name, limit) => Buffer.from(members[name.toString()] ?? '').subarray(0, limit),
});
const TAG = 'Signature: 8a477f597d28d172789f06886806bc55';

test('markers', async () => {
  const only = (name: string) => ({ only: [Buffer.from(name)] });
  const caches = await make({ caches: true });
  expect(caches.members(view({ 'CACHEDIR.TAG': `${TAG}\n# comment`, a: '' }))).toEqual(only('CACHEDIR.TAG'));
  for (const text of ['', TAG.slice(0, -1), ` ${TAG}`, TAG.replace('8a', '8b')])
    expect(caches.members(view({ 'CACHEDIR.TAG': text })), text).toBe('all');
  expect(caches.members(view({}))).toBe('all');
  const own = await make({ if_present: ['.nobackup', 'skip:yes', 'any:'] });
  expect(own.members(view({ '.nobackup': '' }))).toEqual(only('.nobackup'));
  expect(own.members(view({ skip: 'yes!' }))).toEqual(only('skip'));
  expect(own.members(view({ skip: 'ye' }))).toBe('all');
  expect(own.members(view({ any: 'thing' }))).toEqual(only('any'));
  expect(own.members(view({ any: '', skip: 'yes' }))).toBe('none');
});

test('sizes and borders of file systems', async () => {
  const path = Buffer.from('/src/d/e');
  const sized = await make({ larger_than: 1000 });
  const takes = (kind: 'file' | 'directory' | 'symlink', size: number) =>
    sized.includes({ path, kind, size, device: 1 }, view({}));
  expect([takes('file', 1000), takes('file', 1001), takes('directory', 4096), takes('symlink', 1001)]).toEqual([
    true,
    false,
    true,
    false,
  ]);
  const bound = await make({ one_file_system: true });
  const stays = (kind: 'file' | 'directory', device: number, within: number) =>
    bound.includes({ path, kind, size: 0, device }, view({}, within));
  expect([stays('file', 1, 1), stays('file', 2, 1), stays('directory', 2, 1)]).toEqual([true, false, true]); // the mount point itself
  expect([stays('file', 2, 2), stays('directory', 2, 2), stays('file', 1, 2)]).toEqual([false, false, true]); // and below it
});

test.each<[string, Partial<Excludes>, string]>([
  [
    'a pattern',
    { patterns: ['ok', '[a'] },
    "The exclude pattern '[a' is malformed: close its brackets, and put \\ before a [ or \\ that is meant as such.",
  ],
  [
    'a case-insensitive one',
    { ipatterns: ['a/b\\'] },
    "The exclude pattern 'a/b\\' is malformed: close its brackets, and put \\ before a [ or \\ that is meant as such.",
  ],
  [
    'a line of a file',
    { files: ['/bad'] },
    "The pattern in line 3 of the exclude file '/bad' is malformed: close its brackets, and put \\ before a [ or \\ that is meant as such.",
  ],
  [
    'a file that is gone',
    { ifiles: ['/gone'] },
    "The exclude file '/gone' cannot be read: make it readable, or take it out of the configuration.",
  ],
  ['a long line', { files: ['/long'] }, "The exclude file '/long' is too long, or a line of it."],
  [
    'a marker in a folder',
    { if_present: ['.git/HEAD'] },
    "The marker '.git/HEAD' is not of the form NAME or NAME:HEADER, where NAME is a file's name without folders.",
  ],
  [
    'a marker without a name',
    { if_present: [':x'] },
    "The marker ':x' is not of the form NAME or NAME:HEADER, where NAME is a file's name without folders.",
  ],
])('refuses %s', async (_, excludes, sentence) => {
  const files = { '/bad': '# comment\nok\n$SECRET', '/long': 'x'.repeat(70_000) };
  const fault = await make(excludes, { files }).catch((one: unknown) => one);
  expect(fault).toBeInstanceOf(AegisError);
  expect([(fault as AegisError).code, (fault as AegisError).message]).toEqual(['backups.bad_config', sentence]);
});
