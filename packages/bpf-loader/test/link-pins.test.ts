import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmdirSync, statSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isBpffs, openBpffs } from '../src/bpffs.ts';
import { loadObject } from '../src/object.ts';
import { programBytes } from './programs.ts';

/** The bpf file system: mounted when missing, walked without following links, emptied without leaving it. */

/** A bpf file system of the test's own. */
const ownBpffs = () => {
  const root = mkdtempSync(join(tmpdir(), 'aegis-bpffs-'));
  return {
    root,
    [Symbol.dispose]: () => {
      while (isBpffs(root)) execFileSync('umount', [root]);
      rmdirSync(root);
    },
  };
};

test('is mounted where it is missing, once, for root alone', () => {
  using own = ownBpffs();
  expect(isBpffs(own.root)).toBe(false);
  expect(() => openBpffs({ root: own.root, mount: false })).toThrow(
    `There is no bpf file system at ${own.root}: mount one there.`,
  );
  openBpffs({ root: own.root });
  expect(isBpffs(own.root)).toBe(true);
  expect(statSync(own.root).mode & 0o777).toBe(0o700);
  openBpffs({ root: own.root });
  execFileSync('umount', [own.root]);
  expect(isBpffs(own.root)).toBe(false);
});

test('folders are made, listed and removed with their pins', async () => {
  using own = ownBpffs();
  const bpffs = openBpffs({ root: own.root });
  expect(bpffs.ensureFolder('aegis', 'node_1', 'links')).toBe(join(own.root, 'aegis/node_1/links'));
  bpffs.ensureFolder('aegis', 'node_1', 'links');
  expect(statSync(join(own.root, 'aegis/node_1')).mode & 0o777).toBe(0o700);
  using object = await loadObject(programBytes('map_arrays'));
  object.map('lengths').pin(bpffs.path('aegis', 'node_1', 'lengths'));
  object.program('histogram').pin(bpffs.path('aegis', 'node_1', 'links', 'program'));
  expect(bpffs.list('aegis', 'node_1')).toEqual([
    { name: 'lengths', kind: 'pin' },
    { name: 'links', kind: 'folder' },
  ]);
  expect(bpffs.list('aegis', 'absent')).toEqual([]);
  expect(bpffs.unpin('aegis', 'node_1', 'lengths')).toBe(true);
  expect(bpffs.unpin('aegis', 'node_1', 'lengths')).toBe(false);
  expect(bpffs.unpin('aegis', 'absent', 'lengths')).toBe(false);
  expect(bpffs.removeTree('aegis')).toBe(1);
  expect(bpffs.removeTree('aegis')).toBe(0);
  // Kernels with CONFIG_BPF_PRELOAD put pins of their own into every bpf file system.
  expect(bpffs.list().filter(({ kind }) => kind === 'folder')).toEqual([]);
});

test('a symbolic link is removed, never followed', async () => {
  using own = ownBpffs();
  const bpffs = openBpffs({ root: own.root });
  bpffs.ensureFolder('theirs');
  using object = await loadObject(programBytes('map_arrays'));
  object.map('lengths').pin(bpffs.path('theirs', 'kept'));
  bpffs.ensureFolder('ours');
  symlinkSync(join(own.root, 'theirs'), join(own.root, 'ours', 'link'));
  expect(bpffs.list('ours')).toEqual([{ name: 'link', kind: 'other' }]);
  expect(() => bpffs.list('ours', 'link')).toThrow('is not a folder (a symbolic link is not followed)');
  expect(() => bpffs.ensureFolder('ours', 'link', 'more')).toThrow('is not a folder');
  expect(() => bpffs.removeTree('ours', 'link')).toThrow('is not a folder');
  expect(() => bpffs.unpin('ours', 'link', 'kept')).toThrow('is not a folder');
  expect(bpffs.removeTree('ours')).toBe(1);
  expect(bpffs.list('theirs')).toEqual([{ name: 'kept', kind: 'pin' }]);
});

test('another file system that is mounted below is not entered', () => {
  using own = ownBpffs();
  const bpffs = openBpffs({ root: own.root });
  const inner = bpffs.ensureFolder('ours', 'inner');
  execFileSync('mount', ['-t', 'tmpfs', 'none', inner]);
  try {
    mkdirSync(join(inner, 'precious'));
    expect(() => bpffs.removeTree('ours')).toThrow('Another file system is mounted at');
    expect(() => bpffs.list('ours', 'inner')).toThrow('Another file system is mounted at');
    expect(statSync(join(inner, 'precious')).isDirectory()).toBe(true);
  } finally {
    execFileSync('umount', [inner]);
  }
});

test.each([[['..']], [['a.b']], [['']], [['a/b']], [['a', '.']], [['x'.repeat(129)]], [['nul\0']]])(
  'the names %j are refused',
  (names) => {
    using own = ownBpffs();
    const bpffs = openBpffs({ root: own.root });
    for (const call of [bpffs.path, bpffs.ensureFolder, bpffs.list, bpffs.unpin, bpffs.removeTree])
      expect(() => call(...names)).toThrow(expect.objectContaining({ code: 'bpf.invalid' }));
  },
);

test('the root itself is not removed, and a plain folder is no root', () => {
  using own = ownBpffs();
  const bpffs = openBpffs({ root: own.root });
  expect(() => bpffs.removeTree()).toThrow('The root is not removed');
  execFileSync('umount', [own.root]);
  expect(() => bpffs.list()).toThrow('There is no bpf file system at');
});
