import { lstatSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { beforeAll, describe, expect, test } from 'vitest';
import { packFrame } from '../src/backup/frames.ts';
import type { RestoreOptions } from '../src/backup/restore/backup.ts';
import { framesOf, type Lies, type Member, membersToParts, putTogether } from './backup-forge.ts';
import { type Attempt, type Proving, provingGround } from './proving-ground.ts';
import { snapshot } from './tree-compare.ts';

/** Archives that a hostile node makes and signs, all digests right: restored to the letter where they are harmless, and never outside the target. */

let proving: Proving;
beforeAll(async () => {
  proving = await provingGround();
  return () => proving[Symbol.dispose]();
});

const file = (path: string, content = 'hostile', more: Partial<Member> = {}): Member => ({
  tar: { path: Buffer.from(path), kind: 'file' },
  data: Buffer.from(content),
  ...more,
});
const symlink = (path: string, target: string): Member => ({
  tar: { path: Buffer.from(path), kind: 'symlink', mode: 0o777, target: Buffer.from(target) },
});
const link = (path: string, target: string): Member => ({
  tar: { path: Buffer.from(path), kind: 'hardlink', target: Buffer.from(target) },
});
const folder = (path: string, mode = 0o755): Member => ({ tar: { path: Buffer.from(path), kind: 'directory', mode } });

describe('a hostile node signs its own archive', () => {
  const restored = async (members: readonly Member[], options: Partial<RestoreOptions> = {}, lies: Lies = {}) => {
    const node = generateKeyPair();
    return await proving.attempt(await putTogether(membersToParts(members), node, lies), {
      overwrite: 'always',
      ...options,
    });
  };
  const codes = ({ result }: Attempt) => result?.errors.map(({ path, code }) => `${path} ${code}`);

  for (const [name, path] of Object.entries({
    'a path that goes up': '../outside/secret',
    'a path that goes up later': 'a/../../outside/secret',
    'an absolute path': '/etc/passwd',
    'a path with an empty part': 'a//b',
    'a path that is a dot': 'a/.',
    'a path with a slash at its end': 'a/',
  }))
    test(`${name}: the manifest is refused`, async () => {
      const tried = await restored([file(path)]);
      expect(tried.refused).toBe('backups.bad_manifest line');
      expect(readdirSync(tried.target)).toEqual([]);
    });
  test('a hard link that goes up: the manifest is refused', async () => {
    expect((await restored([link('a', '../outside/secret')])).refused).toBe('backups.bad_manifest line');
  });
  test('a header with another path than the manifest: not restored', async () => {
    const tried = await restored([
      file('harmless', 'x', {
        tar: { path: Buffer.from('../outside/secret'), kind: 'file' },
        entry: { path: Buffer.from('harmless') },
      }),
    ]);
    expect(codes(tried)).toEqual(['harmless header_field']);
    expect(readdirSync(tried.target)).toEqual([]);
  });
  test('a file below a symlink: the symlink is not followed', async () => {
    for (const to of [proving.outside, '../outside', '.']) {
      const tried = await restored([symlink('a', to), file('a/secret'), folder('a/b'), link('a/c', 'a')]);
      expect(codes(tried)).toEqual(['a/secret ENOTDIR', 'a/b ENOTDIR', 'a/c ENOTDIR']);
    }
  });
  test('a file over a symlink that the archive made: the symlink goes, what it names stays', async () => {
    const tried = await restored([symlink('a', join(proving.outside, 'secret')), file('a')]);
    expect(tried.result).toMatchObject({ restored: 2, errors: [] });
    expect(readFileSync(join(tried.target, 'a'), 'utf8')).toBe('hostile');
  });
  test('a folder over a symlink that the archive made', async () => {
    const tried = await restored([symlink('a', proving.outside), folder('a'), file('a/secret')]);
    expect(tried.result?.errors).toEqual([]);
    expect(lstatSync(join(tried.target, 'a')).isDirectory()).toBe(true);
  });
  test('a hard link through a symlink, to a symlink, to nothing, to itself, to a folder', async () => {
    const tried = await restored([
      symlink('a', proving.outside),
      link('b', 'a/secret'),
      link('c', 'a'),
      link('d', 'etc/passwd'),
      link('e', 'e'),
      folder('f'),
      link('g', 'f'),
    ]);
    expect(codes(tried)).toEqual(['b ENOENT', 'd ENOENT', 'e ENOENT', 'g ENOENT']);
    expect(lstatSync(join(tried.target, 'c')).isSymbolicLink()).toBe(true); // the link itself, twice
  });
  test('a hard link to what stood in the target before: it gets the content of the backup, not that inode', async () => {
    const target = proving.newTarget();
    writeFileSync(join(target, 'x'), 'was here');
    const node = generateKeyPair();
    const made = await putTogether(membersToParts([file('x'), link('y', 'x'), link('z', 'x')]), node);
    const tried = await proving.attempt(made, { overwrite: 'never' }, target);
    expect(tried.result).toMatchObject({ restored: 2, skipped: 1, errors: [] });
    expect(['x', 'y', 'z'].map((one) => readFileSync(join(target, one), 'utf8'))).toEqual([
      'was here',
      'hostile',
      'hostile',
    ]);
    expect(statSync(join(target, 'y')).ino).toBe(statSync(join(target, 'z')).ino);
  });
  test('the same path twice: whole in either case', async () => {
    const twice = [file('a', 'one'), file('a', 'two')];
    expect(readFileSync(join((await restored(twice)).target, 'a'), 'utf8')).toBe('two');
    const never = await restored(twice, { overwrite: 'never' });
    expect(never.result).toMatchObject({ restored: 1, skipped: 1 });
    expect(readFileSync(join(never.target, 'a'), 'utf8')).toBe('one');
  });
  test('setuid, owners, devices and attributes of the system only on explicit wish', async () => {
    const members: Member[] = [
      { tar: { path: Buffer.from('device'), kind: 'character', major: 1, minor: 3 } },
      {
        tar: {
          path: Buffer.from('setuid'),
          kind: 'file',
          mode: 0o6755,
          uid: 12_345,
          gid: 54_321,
          xattrs: [
            { name: Buffer.from('trusted.x'), value: Buffer.from('x') },
            { name: Buffer.from('user.x'), value: Buffer.from('x') },
          ],
        },
      },
    ];
    const without = await restored(members, { owners: false, setuid: false });
    expect(codes(without)).toEqual(['device EPERM']);
    expect(snapshot(without.target).get('setuid')).toContain('"mode":"755","uid":0,"gid":0');
    expect(snapshot(without.target).get('setuid')).not.toContain('trusted.x');
    expect(snapshot(without.target).get('setuid')).toContain('user.x');
    const owners = await restored(members, { owners: true, setuid: false });
    expect(snapshot(owners.target).get('setuid')).toContain('"mode":"755","uid":12345,"gid":54321');
    const both = await restored(members);
    expect(snapshot(both.target).get('setuid')).toContain('"mode":"6755","uid":12345,"gid":54321');
    expect((await restored(members, { owners: false, setuid: true })).refused).toBe('backups.unsafe_target');
  });
  test('an ACL that is not restored leaves the group no more than it had', async () => {
    // user::rw-,user:12:rwx,group::r--,mask::rwx,other::---
    const acl = Buffer.from(
      '0200000001000600ffffffff020007000c00000004000400ffffffff10000700ffffffff20000000ffffffff',
      'hex',
    );
    const members: Member[] = [
      {
        tar: {
          path: Buffer.from('a'),
          kind: 'file',
          mode: 0o670,
          xattrs: [{ name: Buffer.from('system.posix_acl_access'), value: acl }],
        },
      },
    ];
    expect(snapshot((await restored(members, { owners: false, setuid: false })).target).get('a')).toContain(
      '"mode":"640"',
    );
    expect(snapshot((await restored(members)).target).get('a')).toContain('"mode":"670"');
  });

  const map = (text: string): Buffer =>
    Buffer.concat([Buffer.from(text), Buffer.alloc((512 - (text.length % 512)) % 512)]);
  const sparse = (data: Buffer, size: number): Member => ({
    tar: { path: Buffer.from('a'), kind: 'file', sparseSize: size },
    data,
  });
  for (const [name, member] of Object.entries({
    'segments that overlap': sparse(Buffer.concat([map('2\n0\n600\n500\n100\n'), Buffer.alloc(700)]), 1000),
    'a segment beyond the size': sparse(Buffer.concat([map('1\n0\n2000\n'), Buffer.alloc(2000)]), 1000),
    'fewer bytes than its map says': sparse(Buffer.concat([map('1\n0\n900\n'), Buffer.alloc(500)]), 1000),
    'more bytes than its map says': sparse(Buffer.concat([map('1\n0\n100\n'), Buffer.alloc(500)]), 1000),
    'a map without an end': sparse(map('5\n0\n1\n'), 1000),
    'a map that is no numbers': sparse(map('1\n0x1\n1\n'), 1000),
    'a map of negative numbers': sparse(map('1\n-5\n1\n'), 1000),
    'a map of too many segments': sparse(map('99999999\n'), 1000),
    'a map of numbers too long': sparse(map(`1\n${'9'.repeat(40)}\n1\n`), 1000),
    'no map at all': sparse(Buffer.alloc(0), 1000),
  }))
    test(`a sparse file with ${name}: not restored`, async () => {
      const tried = await restored([member]);
      expect(codes(tried)).toEqual(['a sparse']);
      expect(readdirSync(tried.target)).toEqual([]);
    });
  test('a sparse file larger than any file can be: not restored, the next one is', async () => {
    const tried = await restored([sparse(map('0\n'), Number.MAX_SAFE_INTEGER), file('b')]);
    expect(codes(tried)).toEqual(['a EFBIG']);
    expect(readdirSync(tried.target)).toEqual(['b']);
  });

  for (const [name, change] of Object.entries({
    'a checksum that is wrong': (header: Buffer) => header.fill(0x37, 148, 149),
    'an unknown type': (header: Buffer) => header.fill(0x5a, 156, 157),
    'a GNU long name': (header: Buffer) => header.fill(0x4c, 156, 157),
    'a base-256 number': (header: Buffer) => header.fill(0x80, 124, 125),
    'another magic': (header: Buffer) => header.fill(0x20, 262, 264),
    'bytes behind its fields': (header: Buffer) => header.fill(1, 505, 506),
    'a PAX header that lies about its length': (header: Buffer) => header.fill(0x37, 512, 513),
    'a PAX record of another kind': (header: Buffer) =>
      Buffer.from(header.toString('latin1').replace('mtime=', 'atime='), 'latin1'),
    'a PAX header longer than the entry': (header: Buffer) => header.fill(0x37, 124, 134),
  }))
    test(`a header with ${name}: not restored`, async () => {
      const tried = await restored([file('a', 'x', { header: change }), file('b')]);
      // What is not marked as a PAX header is taken for all of the header, whose digest is another one.
      const marked = name !== 'an unknown type' && name !== 'a GNU long name';
      expect(codes(tried)).toEqual([marked ? 'a header_form' : 'a header_sha256']);
      expect(readdirSync(tried.target)).toEqual(['b']);
    });
  test('padding that is not zero: not restored', async () => {
    const given = membersToParts([file('a'), file('b')]);
    given.tar[(given.entries[1]?.offset ?? 0) - 1] = 1;
    const tried = await proving.attempt(await putTogether(given, generateKeyPair()));
    expect(codes(tried)).toEqual(['a padding']);
  });
  test('an end that is not zero: told', async () => {
    const given = membersToParts([file('a')]);
    given.tar[given.tar.length - 1] = 1;
    expect((await proving.attempt(await putTogether(given, generateKeyPair()))).refused).toBe(
      'backups.bad_archive end',
    );
  });

  test('bombs: frames that unpack to more than is said, or than is taken', async () => {
    const given = membersToParts([file('a')]);
    const zeros = await packFrame(Buffer.alloc(64 * 1024 * 1024), 19);
    const [honest] = await framesOf(given.tar);
    const said = (tarBytes: number): Lies => ({ frames: [{ packed: zeros, said: [tarBytes, zeros.length] }] });
    const more = await proving.attempt(await putTogether(given, generateKeyPair(), said(given.tar.length)));
    expect(more.refused).toMatch(/^backups\.bad_archive zstd/);
    const huge = await proving.attempt(
      await putTogether(given, generateKeyPair(), { ...said(64 * 1024 * 1024), tarBytes: 64 * 1024 * 1024 }),
    );
    expect(huge.refused).toMatch(/^backups\.bad_manifest/);
    const less = await proving.attempt(
      await putTogether(given, generateKeyPair(), {
        frames: [{ packed: honest?.packed ?? zeros, said: [given.tar.length - 512, honest?.packed.length ?? 0] }],
      }),
    );
    expect(less.refused).toMatch(/^backups\.bad_manifest order/);
  });
  test('bombs: more frames than the archive has bytes are refused where that shows, not where the manifest ends', async () => {
    const nothing = { packed: Buffer.alloc(0), said: [1024 * 1024, 9] as const };
    const lies = { frames: Array.from({ length: 1_000_000 }, () => nothing), tarBytes: 512 };
    const made = await putTogether(membersToParts([file('a')]), generateKeyPair(), lies);
    expect(made.manifest.length).toBeLessThan(64 * 1024);
    expect((await proving.attempt(made)).refused).toBe('backups.bad_manifest limit');
  });
  test('a manifest of another archive: refused', async () => {
    const lies = { archive: { bytes: proving.parts.tar.length, sha256: '0'.repeat(64) } };
    const tried = await proving.attempt(await putTogether(membersToParts([file('a')]), generateKeyPair(), lies));
    expect(tried.refused).toMatch(/^backups\.bad_manifest/);
  });
});
