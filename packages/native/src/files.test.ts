import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  constants,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { loadAddon } from './binaries.ts';
import {
  AT_FDCWD,
  EMPTY,
  fileCalls,
  nameAt,
  OMIT,
  OPEN_DIRECTORY,
  OPEN_NAME,
  STAT,
  STAT_FIELDS,
  TYPE,
} from './files.ts';
import { SystemError } from './system-error.ts';

const files = fileCalls();
const { O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW, O_DIRECTORY } = constants;
const O_TMPFILE = 0o20000000 | O_DIRECTORY;
const name = (text: string): Buffer => Buffer.from(text);

const folder = (below = tmpdir()): { dir: string; fd: number } => {
  const dir = mkdtempSync(join(below, 'aegis-files-'));
  const fd = files.openAt(AT_FDCWD, name(dir), OPEN_DIRECTORY);
  onTestFinished(() => {
    files.closeFd(fd);
    rmSync(dir, { recursive: true });
  });
  return { dir, fd };
};
const statOf = (fd: number, of: Buffer = EMPTY) => {
  const out = new Float64Array(STAT_FIELDS);
  files.statAt(fd, of, out);
  return (field: keyof typeof STAT): number => out[STAT[field]] ?? Number.NaN;
};
const closing = (fd: number): number => {
  onTestFinished(() => files.closeFd(fd));
  return fd;
};
const failure = (work: () => unknown): { code: string; errno: number; syscall: string } => {
  try {
    work();
  } catch (error) {
    if (error instanceof SystemError) return { code: error.code, errno: error.errno, syscall: error.syscall };
    throw error;
  }
  throw new Error('it did not fail');
};

test('a listing has all names as bytes, sorted, with their types', () => {
  const { dir, fd } = folder();
  const odd = Buffer.from([0x62, 0xff, 0x0a, 0x20]);
  closing(files.openAt(fd, odd, O_CREAT | O_EXCL | O_WRONLY, 0o600));
  mkdirSync(join(dir, 'a'));
  symlinkSync('nowhere', join(dir, 'z'));
  files.mknodAt(fd, name('p'), 0o010600);
  files.mknodAt(fd, name('s'), 0o140600);
  writeFileSync(join(dir, 'ü'), '');
  const listing = files.readDirectory(fd);
  expect(Array.from(listing.types, (type, at) => [nameAt(listing, at), type])).toEqual([
    [name('a'), TYPE.directory],
    [odd, TYPE.file],
    [name('p'), TYPE.fifo],
    [name('s'), TYPE.socket],
    [name('z'), TYPE.symlink],
    [name('ü'), TYPE.file],
  ]);
  expect(files.readDirectory(fd)).toEqual(listing); // from its beginning again
  const empty = folder();
  expect(files.readDirectory(empty.fd).ends.length).toBe(0);
});

test('a listing of many names, each stat in one call', () => {
  const { dir, fd } = folder();
  const expected = Array.from({ length: 3000 }, (_, at) => `${'n'.repeat(200)}${at}`).sort();
  for (const [at, one] of expected.entries()) writeFileSync(join(dir, one), 'x'.repeat(at % 7));
  const listing = files.readDirectory(fd);
  expect(Array.from(listing.ends, (_, at) => nameAt(listing, at).toString())).toEqual(expected);
  const out = new Float64Array(STAT_FIELDS * listing.ends.length);
  files.statListing(fd, listing, out);
  expect(expected.map((_, at) => out[at * STAT_FIELDS + STAT.size])).toEqual(expected.map((_, at) => at % 7));
  rmSync(join(dir, expected[5] ?? ''));
  files.statListing(fd, listing, out);
  expect(out[5 * STAT_FIELDS + STAT.mode]).toBe(-2); // ENOENT, and the others are there all the same
  expect(out[6 * STAT_FIELDS + STAT.size]).toBe(6);
});

test('stat says what Node.js says, to the nanosecond and the inode, and follows nothing', () => {
  const { dir, fd } = folder();
  writeFileSync(join(dir, 'f'), 'content');
  linkSync(join(dir, 'f'), join(dir, 'g'));
  chmodSync(join(dir, 'f'), 0o4751);
  files.utimesAt(fd, name('f'), { atimeSec: -5, atimeNsec: 1, mtimeSec: 1_700_000_000, mtimeNsec: 123_456_789 });
  symlinkSync('f', join(dir, 'l'));
  for (const one of ['f', 'l', '.']) {
    const wanted = lstatSync(join(dir, one), { bigint: true });
    const got = statOf(fd, name(one));
    expect({
      mode: BigInt(got('mode')),
      nlink: BigInt(got('links')),
      uid: BigInt(got('uid')),
      gid: BigInt(got('gid')),
      size: BigInt(got('size')),
      blocks: BigInt(got('blocks')),
      mtimeNs: BigInt(got('mtimeSec')) * 1_000_000_000n + BigInt(got('mtimeNsec')),
      atimeNs: BigInt(got('atimeSec')) * 1_000_000_000n + BigInt(got('atimeNsec')),
      ctimeNs: BigInt(got('ctimeSec')) * 1_000_000_000n + BigInt(got('ctimeNsec')),
      ino: (BigInt(got('inodeHigh')) << 32n) + BigInt(got('inodeLow')),
    }).toEqual({
      mode: wanted.mode,
      nlink: wanted.nlink,
      uid: wanted.uid,
      gid: wanted.gid,
      size: wanted.size,
      blocks: wanted.blocks,
      mtimeNs: wanted.mtimeNs,
      atimeNs: wanted.atimeNs,
      ctimeNs: wanted.ctimeNs,
      ino: wanted.ino,
    });
  }
  expect(statOf(fd, name('f'))('atimeSec')).toBe(-5);
  expect(statOf(fd, name('f'))('mountId')).toBeGreaterThanOrEqual(0);
  files.mknodAt(fd, name('dev'), 0o020600, 7, 300);
  expect([statOf(fd, name('dev'))('rdevMajor'), statOf(fd, name('dev'))('rdevMinor')]).toEqual([7, 300]);
});

test('openBeneath goes neither through symlinks nor upwards, however long the path is', () => {
  const { dir, fd } = folder();
  mkdirSync(join(dir, 'in/deep'), { recursive: true });
  writeFileSync(join(dir, 'in/deep/file'), 'here');
  symlinkSync('in', join(dir, 'link'));
  symlinkSync('deep/file', join(dir, 'in/to-file'));
  symlinkSync('/etc', join(dir, 'in/etc'));
  const open = (path: string, flags = O_RDONLY): number => closing(files.openBeneath(fd, name(path), flags));
  expect(readFileSync(open('in/deep/file'), 'utf8')).toBe('here');
  for (const path of ['link/deep/file', 'in/to-file', 'in/etc/passwd', 'in/etc'])
    expect(failure(() => open(path)).code, path).toBe('ELOOP');
  for (const path of ['../x', 'in/../../x', '/etc/passwd', '', '.', 'in//deep', 'in/', 'in/./deep'])
    expect(failure(() => open(path)).code, path).toBe('EINVAL');
  expect(failure(() => open('in/none')).code).toBe('ENOENT');
  expect(failure(() => open('in/deep/file/x')).code).toBe('ENOTDIR');

  let at = fd;
  const levels = Array.from({ length: 64 }, (_, index) => `${index}-${'d'.repeat(200)}`);
  for (const level of levels) {
    files.mkdirAt(at, name(level), 0o700);
    at = closing(files.openAt(at, name(level), OPEN_DIRECTORY));
  }
  closing(files.openAt(at, name('end'), O_CREAT | O_EXCL | O_RDWR, 0o600));
  const long = `${levels.join('/')}/end`;
  expect(long.length).toBeGreaterThan(3 * 4096);
  expect(statOf(open(long))('size')).toBe(0);
  expect(failure(() => open(`${'n'.repeat(5000)}`)).code).toBe('ENAMETOOLONG');
  expect(failure(() => open(`${levels.join('/')}/none`)).code).toBe('ENOENT');
});

test('openBeneath does the same step by step where the kernel has no openat2', () => {
  const { dir, fd } = folder();
  mkdirSync(join(dir, 'in/deep'), { recursive: true });
  writeFileSync(join(dir, 'in/deep/file'), 'here');
  symlinkSync('in', join(dir, 'link'));
  symlinkSync('deep/file', join(dir, 'in/to-file'));
  const old = fileCalls({ ...loadAddon(), openBeneath: () => -38 });
  expect(readFileSync(closing(old.openBeneath(fd, name('in/deep/file'), O_RDONLY)), 'utf8')).toBe('here');
  expect(failure(() => old.openBeneath(fd, name('link/deep/file'), O_RDONLY)).code).toBe('ENOTDIR');
  expect(failure(() => old.openBeneath(fd, name('in/to-file'), O_RDONLY)).code).toBe('ELOOP');
  expect(failure(() => old.openBeneath(fd, name('in/none/x'), O_RDONLY)).code).toBe('ENOENT');
});

test('extended attributes of files, symlinks and devices, as large as tmpfs holds them', () => {
  const { fd } = folder('/dev/shm');
  closing(files.openAt(fd, name('f'), O_CREAT | O_EXCL | O_RDWR, 0o600));
  files.symlinkAt(name('nowhere'), fd, name('l'));
  files.mknodAt(fd, name('d'), 0o020600, 1, 3);
  const large = Buffer.alloc(64 * 1024, 0xa5);
  const wanted = [
    { name: name('trusted.large'), value: large },
    { name: name('trusted.empty'), value: EMPTY },
    { name: name('trusted.eq=%'), value: Buffer.from([0, 1, 2, 0]) },
  ];
  for (const one of ['f', 'l', 'd']) {
    const at = closing(files.openAt(fd, name(one), one === 'f' ? O_RDWR | O_NOFOLLOW : OPEN_NAME));
    expect(files.getXattrs(at)).toEqual([]);
    for (const xattr of wanted) files.setXattr(at, xattr.name, xattr.value);
    const sorted = (all: readonly { name: Buffer; value: Buffer }[]) => [...all].sort((a, b) => a.name.compare(b.name));
    expect(sorted(files.getXattrs(at)), one).toEqual(sorted(wanted));
    expect(sorted(files.getXattrsAt(fd, name(one))), one).toEqual(sorted(wanted));
    files.removeXattr(at, name('trusted.large'));
    expect(files.getXattrs(at).length).toBe(2);
    expect(failure(() => files.removeXattr(at, name('trusted.large'))).code).toBe('ENODATA');
  }
  const many = closing(files.openAt(fd, name('m'), O_CREAT | O_EXCL | O_RDWR, 0o600));
  for (let at = 0; at < 100; at++) files.setXattr(many, name(`user.${'n'.repeat(40)}${at}`), name(String(at)));
  expect(files.getXattrs(many).length).toBe(100);
  const bytes = files.getXattrs(many).reduce((sum, one) => sum + one.name.length + one.value.length, 0);
  expect(files.getXattrs(many, bytes).length).toBe(100);
  expect(failure(() => files.getXattrs(many, bytes - 1)).code).toBe('E2BIG');
  expect(failure(() => files.getXattrsAt(fd, name('m'), 0)).code).toBe('E2BIG');
});

test('ACLs are extended attributes too', () => {
  const { dir, fd } = folder();
  writeFileSync(join(dir, 'f'), '');
  execFileSync('setfacl', ['-m', 'u:12:r,g:34:x', join(dir, 'f')]);
  const [acl] = files.getXattrsAt(fd, name('f'));
  expect(acl?.name.toString()).toBe('system.posix_acl_access');
  const other = closing(files.openAt(fd, name('g'), O_CREAT | O_EXCL | O_RDWR, 0o644));
  files.setXattr(other, acl?.name ?? EMPTY, acl?.value ?? EMPTY);
  expect(execFileSync('getfacl', ['-cn', join(dir, 'g')], { encoding: 'utf8' })).toContain('user:12:r--');
});

test('holes are told apart from data, and can be made', () => {
  const { dir, fd } = folder();
  const write = (at: number, bytes: number): void => {
    writeSync(raw, Buffer.alloc(bytes, 1), 0, bytes, at);
  };
  const raw = openSync(join(dir, 'f'), 'wx+');
  onTestFinished(() => closeSync(raw));
  ftruncateSync(raw, 10 * 1024 ** 3);
  write(1024 * 1024, 4096);
  write(5 * 1024 ** 3, 8192);
  const file = closing(files.openAt(fd, name('f'), O_RDWR));
  const size = 10 * 1024 ** 3;
  expect([...files.dataSegments(file, size)]).toEqual([
    1024 * 1024,
    1024 * 1024 + 4096,
    5 * 1024 ** 3,
    5 * 1024 ** 3 + 8192,
  ]);
  expect([...files.dataSegments(file, 1024 * 1024 + 10)]).toEqual([1024 * 1024, 1024 * 1024 + 10]);
  files.punchHole(file, 1024 * 1024, 4096);
  expect([...files.dataSegments(file, size)]).toEqual([5 * 1024 ** 3, 5 * 1024 ** 3 + 8192]);
  files.truncateFd(file, 4096);
  expect(statOf(file)('size')).toBe(4096);
  expect([...files.dataSegments(file, 4096)]).toEqual([]);
  expect([...files.dataSegments(file, 0)]).toEqual([]);
});

test('reads stop at the end of the file, and writes write all', () => {
  const { fd } = folder();
  const file = closing(files.openAt(fd, name('f'), O_CREAT | O_EXCL | O_RDWR, 0o600));
  files.writeFrom(file, name('-hello-'), 1, 5, 3);
  const into = Buffer.alloc(12, '.');
  expect(files.readInto(file, into, 2, 10, 0)).toBe(8);
  expect(into.toString('latin1')).toBe('..\0\0\0hello..');
  expect(files.readInto(file, into, 0, 5, 100)).toBe(0);
  expect(failure(() => files.readInto(fd, into, 0, 5, 0))).toEqual({ code: 'EISDIR', errno: 21, syscall: 'pread' });
  expect(failure(() => files.writeFrom(closing(files.openAt(fd, name('f'), O_RDONLY)), into, 0, 1, 0)).code).toBe(
    'EBADF',
  );
});

test('links, renames and removals are of the names themselves', () => {
  const { dir, fd } = folder();
  writeFileSync(join(dir, 'f'), 'f');
  files.symlinkAt(Buffer.from([0x78, 0xfe]), fd, name('l'));
  expect(files.readLinkAt(fd, name('l'))).toEqual(Buffer.from([0x78, 0xfe]));
  expect(files.readLinkAt(closing(files.openAt(fd, name('l'), OPEN_NAME)), EMPTY)).toEqual(Buffer.from([0x78, 0xfe]));
  files.linkAt(fd, name('l'), fd, name('l2'));
  expect(statOf(fd, name('l2'))('links')).toBe(2);
  expect(failure(() => files.renameAt(fd, name('f'), fd, name('l'), { noReplace: true })).code).toBe('EEXIST');
  files.renameAt(fd, name('f'), fd, name('l'));
  expect(readFileSync(join(dir, 'l'), 'utf8')).toBe('f');
  const unnamed = closing(files.openAt(fd, name('.'), O_TMPFILE | O_RDWR, 0o600));
  files.writeFrom(unnamed, name('later'), 0, 5, 0);
  files.linkFd(unnamed, fd, name('named'));
  expect(readFileSync(join(dir, 'named'), 'utf8')).toBe('later');
  expect(failure(() => files.linkFd(unnamed, fd, name('l'))).code).toBe('EEXIST');
  files.mkdirAt(fd, name('d'), 0o700);
  expect(failure(() => files.unlinkAt(fd, name('d'))).code).toBe('EISDIR');
  files.unlinkAt(fd, name('d'), { directory: true });
  for (const one of ['l', 'l2', 'named']) files.unlinkAt(fd, name(one));
  expect(files.readDirectory(fd).ends.length).toBe(0);
});

test('owner, mode and times of files, symlinks and descriptors without a mode of their own', () => {
  const { dir, fd } = folder();
  writeFileSync(join(dir, 'f'), '');
  symlinkSync('f', join(dir, 'l'));
  files.mknodAt(fd, name('p'), 0o010600);
  const before = statSync(join(dir, 'f'), { bigint: true }).mtimeNs;
  for (const one of ['l', 'p']) {
    const at = closing(files.openAt(fd, name(one), OPEN_NAME));
    files.chownAt(at, EMPTY, 12, 34);
    if (one === 'p') files.chmodFd(at, 0o4711);
    else expect(failure(() => files.chmodFd(at, 0o777)).code).toBe('EOPNOTSUPP');
    files.utimesAt(at, EMPTY, { atimeSec: 1, atimeNsec: 2, mtimeSec: 3, mtimeNsec: 4 });
    files.utimesAt(at, EMPTY, { atimeSec: 0, atimeNsec: OMIT, mtimeSec: -3, mtimeNsec: 999_999_999 });
    const got = statOf(fd, name(one));
    expect([got('uid'), got('gid'), got('atimeSec'), got('atimeNsec'), got('mtimeSec'), got('mtimeNsec')]).toEqual([
      12, 34, 1, 2, -3, 999_999_999,
    ]);
  }
  expect(statOf(fd, name('p'))('mode')).toBe(0o014711);
  expect(statSync(join(dir, 'f'), { bigint: true })).toMatchObject({ uid: 0n, mtimeNs: before });
});

test('arguments of a wrong kind are refused, and nothing crashes', () => {
  const addon = loadAddon() as unknown as Record<string, (...given: unknown[]) => unknown>;
  const calls = Object.keys(addon).filter((key) => key !== 'sdNotify' && key !== 'lockHeld');
  expect(calls.length).toBe(26);
  const values: unknown[] = [
    undefined,
    null,
    'text',
    {},
    Number.NaN,
    2 ** 60,
    -1,
    Buffer.alloc(3),
    new Float64Array(1),
  ];
  for (const call of calls)
    for (const value of values)
      for (const count of [0, 1, 7]) {
        const given = Array.from({ length: count }, () => value);
        let outcome: unknown;
        try {
          outcome = addon[call]?.(...given);
        } catch (error) {
          outcome = error;
        }
        // A TypeError, or what the kernel says of descriptor -1.
        expect(outcome instanceof TypeError || (typeof outcome === 'number' && outcome < 0), `${call}(${given})`).toBe(
          true,
        );
      }
  const { fd } = folder();
  const out = new Float64Array(STAT_FIELDS);
  expect(() => files.statAt(fd, name('.'), out, 1)).toThrow(TypeError);
  expect(() => files.readInto(fd, Buffer.alloc(4), 2, 3, 0)).toThrow(TypeError);
  expect(() => files.readInto(fd, Buffer.alloc(4), -1, 3, 0)).toThrow(TypeError);
  expect(failure(() => files.openAt(fd, name('a\0b'), O_RDONLY)).code).toBe('EINVAL');
  expect(failure(() => files.openAt(fd, name('n'.repeat(4096)), O_RDONLY)).code).toBe('ENAMETOOLONG');
  expect(failure(() => files.openAt(-1, name('x'), O_RDONLY)).code).toBe('EBADF');
  expect(() =>
    files.statListing(fd, { bytes: Buffer.alloc(1), ends: new Uint32Array([5]), types: new Uint8Array(1) }, out),
  ).toThrow(TypeError);
});

test('an error says what failed, and shows a name without what would reach a terminal', () => {
  const { fd } = folder();
  expect(() => files.openAt(fd, name('a\u001b[2J\nb'), O_RDONLY)).toThrow(
    "ENOENT: no such file or directory, openat 'a\\x1b[2J\\x0ab'",
  );
  expect(failure(() => files.openAt(fd, name('x'), O_RDONLY))).toEqual({ code: 'ENOENT', errno: 2, syscall: 'openat' });
  expect(new SystemError(95, 'setxattr').code).toBe('EOPNOTSUPP');
  expect(new SystemError(11, 'openat').code).toBe('EAGAIN');
  expect(new SystemError(117, 'read').code).toBe('E117');
});
