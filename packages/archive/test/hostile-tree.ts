import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { constants, mkdirSync } from 'node:fs';
import { AT_FDCWD, EMPTY, type FileCalls, fileCalls, OPEN_DIRECTORY, OPEN_NAME } from '@aegis/native/files';

/** A tree of everything that a file system allows and a backup might lose: names, paths, holes, links, owners, attributes, times. Needs root,
 *  `setfacl`, and a file system with ACLs and xattrs. What large xattrs need tmpfs for is a tree of its own. */

const { O_CREAT, O_EXCL, O_RDWR } = constants;
const bytes = (text: string): Buffer => Buffer.from(text, 'utf8');

/** The same bytes for the same seed, not compressible. */
export const noise = (seed: string, length: number): Buffer =>
  length === 0 ? Buffer.alloc(0) : createHash('shake256', { outputLength: length }).update(seed).digest();

type Name = Buffer | string;
/** Calls below one folder. */
interface Folder {
  readonly fd: number;
  file(name: Name, content?: Name, mode?: number): void;
  sparse(name: string, size: number, parts: readonly (readonly [offset: number, data: Buffer])[]): void;
  folder(name: Name, fill?: (inside: Folder, fd: number) => void, mode?: number): void;
  xattr(name: Name, key: string, value: Name): void;
  symlink(name: Name, target: Name): void;
  link(from: Name, to: Name): void;
  node(name: string, mode: number, major?: number, minor?: number): void;
  owner(name: string, uid: number, gid: number): void;
  mode(name: string, mode: number): void;
  time(name: string, mtimeSec: number, mtimeNsec: number): void;
}

const within = (files: FileCalls, fd: number): Folder => {
  const file = (name: Name, content: Name = '', mode = 0o644): void => {
    const data = typeof content === 'string' ? bytes(content) : content;
    const to = files.openAt(fd, nameOf(name), O_CREAT | O_EXCL | O_RDWR, 0o600);
    files.writeFrom(to, data, 0, data.length, 0);
    files.chmodFd(to, mode);
    files.closeFd(to);
  };
  const sparse = (name: string, size: number, parts: readonly (readonly [offset: number, data: Buffer])[]): void => {
    const to = files.openAt(fd, bytes(name), O_CREAT | O_EXCL | O_RDWR, 0o644);
    files.truncateFd(to, size);
    for (const [offset, data] of parts) files.writeFrom(to, data, 0, data.length, offset);
    files.closeFd(to);
  };
  const folder = (name: Name, fill: (inside: Folder, fd: number) => void = () => undefined, mode = 0o755): void => {
    files.mkdirAt(fd, nameOf(name), 0o700);
    const inside = files.openAt(fd, nameOf(name), OPEN_DIRECTORY);
    fill(within(files, inside), inside);
    files.chmodFd(inside, mode);
    files.closeFd(inside);
  };
  const xattr = (name: Name, key: string, value: Name): void => {
    const at = files.openAt(fd, nameOf(name), OPEN_NAME);
    files.setXattr(at, bytes(key), typeof value === 'string' ? bytes(value) : value);
    files.closeFd(at);
  };
  return {
    fd,
    file,
    sparse,
    folder,
    xattr,
    symlink: (name: Name, target: Name): void => files.symlinkAt(nameOf(target), fd, nameOf(name)),
    link: (from: Name, to: Name): void => files.linkAt(fd, nameOf(from), fd, nameOf(to)),
    node: (name: string, mode: number, major = 0, minor = 0): void =>
      files.mknodAt(fd, bytes(name), mode, major, minor),
    owner: (name: string, uid: number, gid: number): void => files.chownAt(fd, bytes(name), uid, gid),
    mode: (name: string, mode: number): void => {
      const at = files.openAt(fd, bytes(name), OPEN_NAME);
      files.chmodFd(at, mode);
      files.closeFd(at);
    },
    time: (name: string, mtimeSec: number, mtimeNsec: number): void =>
      files.utimesAt(fd, bytes(name), { atimeSec: 1, atimeNsec: 0, mtimeSec, mtimeNsec }),
  };
};
const nameOf = (name: Name): Buffer => (typeof name === 'string' ? bytes(name) : name);

export interface HostileTreeOptions {
  /** In the folder of very many. */
  manyEntries?: number;
  sparseBytes?: number;
  /** Paths beyond PATH_MAX, which GNU tar cannot make. */
  beyondPathMax?: boolean;
}

/** Makes it below `root`, which must not be there. */
export const makeHostileTree = (
  root: string,
  { manyEntries = 50_000, sparseBytes = 10 * 1024 ** 3, beyondPathMax = true }: HostileTreeOptions = {},
): void => {
  const files = fileCalls();
  mkdirSync(root);
  const fd = files.openAt(AT_FDCWD, bytes(root), OPEN_DIRECTORY);
  const top = within(files, fd);
  top.folder('names', oddNames);
  top.folder('deep', (_, at) => deepPaths(files, at, beyondPathMax ? 45 : 15));
  top.folder('sparse', (folder) => sparseFiles(folder, sparseBytes));
  top.folder('links', hardLinks);
  top.folder('symlinks', symlinks);
  top.folder('sizes', sizes);
  top.folder('modes', modes);
  top.folder('owners', owners);
  top.folder('special', specialFiles);
  top.folder('xattrs', xattrs);
  top.folder('acls', (folder) => acls(folder, `${root}/acls`));
  top.folder('times', times);
  top.folder('many', (folder) => {
    for (let at = 0; at < manyEntries; at++)
      folder.file(`entry-${at}`, at % 100 === 0 ? noise(String(at), at % 3000) : '');
  });
  files.utimesAt(fd, EMPTY, { atimeSec: 1, atimeNsec: 0, mtimeSec: 1_234_567_890, mtimeNsec: 987_654_321 });
  files.closeFd(fd);
};

const oddNames = ({ file, folder }: Folder): void => {
  const odd: Name[] = [
    'with\nnewline',
    '\n',
    'tab\tbell\x07escape\x1b[31m',
    ' ',
    ' leading and trailing ',
    '-rf',
    '--checkpoint-action=exec=true',
    '...',
    'back\\slash "quotes" \'both\' $HOME `id` *?[a]',
    '\u00e9',
    'e\u0301',
    '名前',
    '\u{1f600}',
    Buffer.from([0xff, 0xfe, 0x80]),
    Buffer.from([0x61, 0xc3, 0x28]),
    Buffer.from([0x0a, 0xff, 0x0a]),
    Buffer.alloc(255, 'n'),
    Buffer.alloc(255, 0xe9),
    'PaxHeader',
    'GNUSparseFile.0',
    `${'p'.repeat(99)}`,
    `${'p'.repeat(100)}`,
    `${'p'.repeat(101)}`,
    'size=5',
    '%3D',
    'order',
    'order-',
    'order.x',
  ];
  for (const [at, name] of odd.entries()) file(name, `content ${at}`);
  folder('order0', (inside) => inside.file('below', 'x'));
  for (const name of [
    Buffer.from([0x64, 0x0a, 0xff]),
    Buffer.alloc(255, 'd'),
    `${'q'.repeat(98)}`,
    `${'q'.repeat(99)}`,
  ])
    folder(name, (inside) => inside.file(Buffer.alloc(200, 0xf0), 'deep enough for a PAX path'));
};

/** With 45 levels some 9,000 bytes of path; only by descending can it be made. */
const deepPaths = (files: FileCalls, from: number, levels: number): void => {
  const opened: number[] = [];
  let at = from;
  for (let level = 0; level < levels; level++) {
    const name = bytes(`${String(level).padStart(3, '0')}-${'x'.repeat(195)}`);
    files.mkdirAt(at, name, 0o755);
    at = files.openAt(at, name, OPEN_DIRECTORY);
    opened.push(at);
    within(files, at).file('here', `level ${level}`);
  }
  const bottom = within(files, at);
  bottom.file('bottom', noise('bottom', 5000));
  bottom.symlink('up', '../../here');
  bottom.link('bottom', 'bottom-again');
  for (const fd of opened) files.closeFd(fd);
  // Many levels with short names: more than anyone should hold descriptors for.
  const narrow: number[] = [];
  files.mkdirAt(from, bytes('narrow'), 0o755);
  at = files.openAt(from, bytes('narrow'), OPEN_DIRECTORY);
  for (let level = 0; level < 300; level++) {
    narrow.push(at);
    files.mkdirAt(at, bytes('n'), 0o755);
    within(files, at).file('z', `${level}`);
    at = files.openAt(at, bytes('n'), OPEN_DIRECTORY);
  }
  for (const fd of [...narrow, at]) files.closeFd(fd);
};

const sparseFiles = ({ sparse }: Folder, size: number): void => {
  const data = noise('sparse', 100_000);
  sparse('middle', size, [
    [4096 * 7, data],
    [Math.floor(size / 2 / 4096) * 4096, data.subarray(0, 4096)],
  ]);
  sparse('only-hole', size, []);
  sparse('starts-with-data', 1024 ** 3, [[0, data.subarray(0, 8192)]]);
  sparse('ends-with-data', 1024 ** 3, [[1024 ** 3 - 4096, data.subarray(0, 4096)]]);
  sparse('ends-odd', 1024 ** 2 + 13, [[1024 ** 2 - 4096, data.subarray(0, 4096)]]);
  sparse(
    'many-holes',
    4096 * 6000,
    Array.from({ length: 3000 }, (_, at) => [at * 8192, data.subarray(at, at + 4096)]),
  );
  sparse('large-segment', 64 * 1024 ** 2, [[1024 ** 2, noise('segment', 9 * 1024 ** 2)]]);
  sparse('zeros-that-are-data', 8192, [[0, Buffer.alloc(8192)]]);
};

const hardLinks = ({ file, folder, link, symlink, node, fd }: Folder): void => {
  const files = fileCalls();
  file('zz-first-made', noise('linked', 10_000), 0o640);
  for (let at = 0; at < 300; at++) link('zz-first-made', `farm-${at}`);
  folder('aa', (_, inside) => files.linkAt(fd, bytes('zz-first-made'), inside, bytes('elsewhere')));
  file('empty');
  link('empty', 'empty-too');
  file('large', noise('large-linked', 5 * 1024 ** 2));
  link('large', 'large-too');
  symlink('symlink', 'nowhere');
  link('symlink', 'symlink-too');
  node('fifo', 0o010600);
  link('fifo', 'fifo-too');
};

const symlinks = ({ symlink, file, folder }: Folder): void => {
  symlink('a', 'b');
  symlink('b', 'a');
  symlink('self', 'self');
  symlink('dangling', 'no/such/thing');
  symlink('absolute', '/etc/passwd');
  symlink('upwards', '../../../../../../../../etc/passwd');
  symlink('long', Buffer.alloc(4095, 't'));
  symlink('hundred', Buffer.alloc(100, 't'));
  symlink('hundred-and-one', Buffer.alloc(101, 't'));
  symlink('bytes', Buffer.from([0x2f, 0xff, 0x0a, 0x80]));
  folder('real', (inside) => inside.file('file', 'through the folder'));
  symlink('to-folder', 'real');
  symlink('to-here', '.');
  file('plain', 'x');
};

const sizes = ({ file }: Folder): void => {
  for (const size of [0, 1, 511, 512, 513, 1023, 1024, 65_536, 1_000_000]) file(`size-${size}`, noise('size', size));
  const frame = 4 * 1024 ** 2;
  for (const size of [frame - 512, frame - 1, frame, frame + 1]) file(`frame-${size}`, noise('frame', size));
  file('several-frames', noise('several', 11 * 1024 ** 2 + 7));
  file('zeros', Buffer.alloc(3 * 1024 ** 2));
};

const modes = ({ file, folder, mode }: Folder): void => {
  for (const bits of [0o000, 0o400, 0o111, 0o777, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777]) {
    file(`file-${bits.toString(8)}`, 'x', bits);
    folder(`folder-${bits.toString(8)}`, (inside) => inside.file('inside', 'x'), bits);
  }
  file('setuid-then', 'x');
  mode('setuid-then', 0o4555);
};

const owners = ({ file, folder, symlink, owner, mode }: Folder): void => {
  file('nobody', 'x');
  owner('nobody', 65534, 65534);
  file('unknown', 'x');
  owner('unknown', 12_345, 54_321);
  file('large', 'x');
  owner('large', 3_000_000_000, 4_000_000_000);
  file('setuid-of-another', 'x');
  owner('setuid-of-another', 12_345, 54_321);
  mode('setuid-of-another', 0o6755);
  symlink('link', 'nobody');
  owner('link', 12_345, 54_321);
  folder('folder', (inside) => inside.file('inside', 'x'));
  owner('folder', 12_345, 54_321);
};

const specialFiles = ({ node, mode, owner }: Folder): void => {
  node('fifo', 0o010640);
  node('socket', 0o140755);
  node('null', 0o020666, 1, 3);
  node('large-number', 0o020600, 500, 200_000);
  node('block', 0o060660, 7, 0);
  mode('fifo', 0o4620);
  mode('block', 0o640);
  owner('block', 12_345, 6);
};

const xattrs = ({ file, folder, symlink, node, xattr }: Folder): void => {
  file('file', 'x');
  xattr('file', 'user.text', 'value');
  xattr('file', 'user.empty', '');
  xattr('file', 'user.binary', Buffer.from([0, 1, 2, 0x0a, 0xff, 0x3d, 0]));
  xattr('file', 'user.with=equals%and%3Dpercent', 'v');
  xattr('file', 'trusted.name', 'only root sees it');
  file('capability', 'x', 0o755);
  // VFS_CAP_REVISION_2, effective, CAP_NET_BIND_SERVICE (include/uapi/linux/capability.h).
  xattr('capability', 'security.capability', Buffer.from('0100000200040000000000000000000000000000', 'hex'));
  folder('folder');
  xattr('folder', 'user.folder', 'f');
  symlink('symlink', 'nowhere');
  xattr('symlink', 'trusted.symlink', 's');
  node('device', 0o020600, 1, 5);
  xattr('device', 'trusted.device', 'd');
};

const acls = ({ file, folder }: Folder, path: string): void => {
  file('file', 'x');
  folder('folder', (inside) => inside.file('inside', 'x'));
  folder('default');
  const set = (...options: string[]) => execFileSync('setfacl', options);
  set('-m', 'u:12345:rwx,g:54321:r,m::rx', `${path}/file`);
  set('-m', 'u:12345:rwx', `${path}/folder`);
  set('-d', '-m', 'u:12345:rwx,g:54321:x', `${path}/default`);
  // After the default ACL: what is made now inherits it.
  execFileSync('sh', ['-c', 'mkdir "$1/inherits" && echo x >"$1/inherits/file"', 'sh', `${path}/default`]);
};

const times = ({ file, folder, symlink, time }: Folder): void => {
  const all: (readonly [sec: number, nsec: number])[] = [
    [0, 0],
    [0, 1],
    [1_700_000_000, 999_999_999],
    [1_700_000_000, 100_000_000],
    [-1, 0],
    [-1, 500_000_000],
    [-1_000_000_000, 123_456_789],
    [2 ** 31, 5],
    [2 ** 33 + 1, 0],
  ];
  for (const [at, [sec, nsec]] of all.entries()) {
    file(`file-${at}`, 'x');
    time(`file-${at}`, sec, nsec);
    folder(`folder-${at}`, (inside) => inside.file('inside', 'x'));
    time(`folder-${at}`, sec, nsec);
  }
  symlink('symlink', 'nowhere');
  time('symlink', 1_600_000_000, 42);
};

/** What only tmpfs holds: attributes of 64 KiB. */
export const makeLargeXattrs = (root: string): void => {
  const files = fileCalls();
  mkdirSync(root);
  const fd = files.openAt(AT_FDCWD, bytes(root), OPEN_DIRECTORY);
  const { file, folder, symlink, xattr } = within(files, fd);
  file('file', 'x');
  folder('folder');
  symlink('symlink', 'nowhere');
  for (const name of ['file', 'folder', 'symlink'])
    for (let at = 0; at < 3; at++) xattr(name, `trusted.large-${at}`, noise(`${name}${at}`, 64 * 1024));
  for (let at = 0; at < 200; at++) xattr('file', `user.${'k'.repeat(200)}${at}`, String(at));
  files.closeFd(fd);
};
