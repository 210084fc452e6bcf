import { MANIFEST_FILE } from '@aegis/protocol/artifacts/manifest';
import { bundleOf, END, type Entry, entriesOf, squeeze, tarOf } from './bundle-forge.ts';
import type { HostileCase } from './hostile-case.ts';

/** Bundles whose tar is not a bundle's: each of these some tar program unpacks. */

const bad = (name: string, reason: string, says: string, bytes: () => Buffer): HostileCase => ({
  name,
  bytes,
  code: 'artifacts.bad_bundle',
  reason,
  says,
});
const over = (name: string, reason: string, says: string, bytes: () => Buffer): HostileCase => ({
  ...bad(name, reason, says, bytes),
  code: 'artifacts.bundle_limit',
});

const put = (at: number, text: string) => (header: Buffer) => {
  header.write(text, at, 'latin1');
};
/** The good bundle with one more entry between the manifest and the objects, as an attacker would slip it in. */
const withExtra = (extra: Entry): Buffer => {
  const [manifest, ...objects] = entriesOf();
  return bundleOf([...(manifest ? [manifest] : []), extra, ...objects]);
};
const empty = Buffer.alloc(0);
const typed = (type: string, name = 'a-link', linkname = '') =>
  withExtra({
    name,
    bytes: empty,
    header: (header) => {
      header.write(type, 156, 'latin1');
      header.write(linkname, 157, 'latin1');
    },
  });
const named = (name: string) => withExtra({ name, bytes: Buffer.from('x') });
/** The good bundle with the header of a.o changed. */
const aWith = (header: (block: Buffer) => void): Buffer =>
  bundleOf(entriesOf().map((entry) => (entry.name === 'a.o' ? { ...entry, header } : entry)));
const aField = (at: number, text: string) => aWith(put(at, text));
const [manifestEntry, a, b] = entriesOf() as [Entry, Entry, Entry];

const TYPES: readonly HostileCase[] = [
  bad(
    'a symbolic link',
    'link',
    "The bundle's entry 'a-link' is a symbolic link: a bundle holds plain files only.",
    () => typed('2', 'a-link', '/etc/shadow'),
  ),
  bad('a hard link', 'link', "The bundle's entry 'a-link' is a hard link: a bundle holds plain files only.", () =>
    typed('1', 'a-link', 'manifest.json'),
  ),
  bad(
    'a hard link out of the bundle',
    'link',
    "The bundle's entry 'a-link' is a hard link: a bundle holds plain files only.",
    () => typed('1', 'a-link', '../../etc/shadow'),
  ),
  bad(
    'a character device',
    'device',
    "The bundle's entry 'a-link' is a character device: a bundle holds plain files only.",
    () => typed('3'),
  ),
  bad(
    'a block device',
    'device',
    "The bundle's entry 'a-link' is a block device: a bundle holds plain files only.",
    () => typed('4'),
  ),
  bad('a directory', 'directory', "The bundle's entry 'folder' is a directory: a bundle holds plain files only.", () =>
    typed('5', 'folder'),
  ),
  bad('a FIFO', 'fifo', "The bundle's entry 'a-link' is a FIFO: a bundle holds plain files only.", () => typed('6')),
  bad(
    'a contiguous file',
    'contiguous',
    "The bundle's entry 'a-link' is a contiguous file: a bundle holds plain files only.",
    () => typed('7'),
  ),
  bad(
    'a PAX header',
    'pax_header',
    "The bundle's entry 'PaxHeader' is a PAX header: a bundle holds plain files only.",
    () => withExtra({ name: 'PaxHeader', bytes: Buffer.from('19 path=../evil.o\n\n'), header: put(156, 'x') }),
  ),
  bad(
    'a global PAX header',
    'pax_global_header',
    "The bundle's entry 'PaxHeader' is a global PAX header: a bundle holds plain files only.",
    () => withExtra({ name: 'PaxHeader', bytes: Buffer.from('13 size=9999\n'), header: put(156, 'g') }),
  ),
  bad(
    'a GNU long name',
    'gnu_long_name',
    "The bundle's entry 'LongLink' is a GNU long name: a bundle holds plain files only.",
    () => withExtra({ name: 'LongLink', bytes: Buffer.from('../../../evil\0'), header: put(156, 'L') }),
  ),
  bad(
    'a GNU long link name',
    'gnu_long_link',
    "The bundle's entry 'LongLink' is a GNU long link name: a bundle holds plain files only.",
    () => withExtra({ name: 'LongLink', bytes: Buffer.from('/etc/shadow\0'), header: put(156, 'K') }),
  ),
  bad(
    'a sparse file',
    'gnu_sparse',
    "The bundle's entry 'a-link' is a GNU sparse file: a bundle holds plain files only.",
    () => typed('S'),
  ),
  bad(
    'a volume label',
    'gnu_volume',
    "The bundle's entry 'a-link' is a GNU volume label: a bundle holds plain files only.",
    () => typed('V'),
  ),
  bad(
    'part of several volumes',
    'gnu_multivolume',
    "The bundle's entry 'a-link' is part of a file on several volumes: a bundle holds plain files only.",
    () => typed('M'),
  ),
  bad(
    'a file of the old tar',
    'old_type',
    "The bundle's entry 'a-link' is a file of the old tar format: a bundle holds plain files only.",
    () => typed('\0'),
  ),
  bad(
    'a type that nobody knows',
    'entry_type',
    "The bundle's entry 'a-link' is of the unknown type 'Z': a bundle holds plain files only.",
    () => typed('Z'),
  ),
  bad('the header of GNU tar', 'tar_format', "The bundle's entry 'a.o' is not in the ustar format of POSIX.", () =>
    aField(257, 'ustar  \0'),
  ),
  bad(
    'the header of 7th Edition tar',
    'tar_format',
    "The bundle's entry 'a.o' is not in the ustar format of POSIX.",
    () => aField(257, '\0\0\0\0\0\0\0\0'),
  ),
];

const NAMES: readonly HostileCase[] = [
  bad('an absolute path', 'absolute_path', "The bundle has an entry with an absolute path, '/etc/cron.d/evil'.", () =>
    named('/etc/cron.d/evil'),
  ),
  bad('a path that leads out', 'parent_path', "The bundle has an entry whose path leads out of it, '../evil.o'.", () =>
    named('../evil.o'),
  ),
  bad(
    'a path that leads out later',
    'parent_path',
    "The bundle has an entry whose path leads out of it, 'a/../../evil.o'.",
    () => named('a/../../evil.o'),
  ),
  bad(
    'a path that leads out with backslashes',
    'parent_path',
    "The bundle has an entry whose path leads out of it, '..\\evil.o'.",
    () => named('..\\evil.o'),
  ),
  bad('two dots as a name', 'parent_path', "The bundle has an entry whose path leads out of it, '..'.", () =>
    named('..'),
  ),
  bad('a folder', 'folder_path', "The bundle has an entry in a folder, 'folder/evil.o': bundles have no folders.", () =>
    named('folder/evil.o'),
  ),
  bad('./ in front', 'folder_path', "The bundle has an entry in a folder, './a.o': bundles have no folders.", () =>
    named('./a.o'),
  ),
  bad(
    'a path in the prefix field',
    'prefix',
    "The bundle's entry 'evil.o' has a folder in its tar header's prefix.",
    () => withExtra({ name: 'evil.o', bytes: empty, header: put(345, '../..') }),
  ),
  bad(
    'an empty name',
    'bad_name',
    "The bundle has an entry with the name '': names have 1–100 of A-Z a-z 0-9 . _ -",
    () => named(''),
  ),
  bad(
    'a hidden name',
    'bad_name',
    "The bundle has an entry with the name '.profile': names have 1–100 of A-Z a-z 0-9 . _ -",
    () => named('.profile'),
  ),
  bad(
    'a name like an option',
    'bad_name',
    "The bundle has an entry with the name '--checkpoint-action=exec=sh': names have 1–100 of A-Z a-z 0-9 . _ -",
    () => named('--checkpoint-action=exec=sh'),
  ),
  bad(
    'a terminal sequence as a name',
    'bad_name',
    "The bundle has an entry with the name '\\u{1b}[2Ja.o': names have 1–100 of A-Z a-z 0-9 . _ -",
    () => named('\x1b[2Ja.o'),
  ),
  bad(
    'a name with a line break',
    'bad_name',
    "The bundle has an entry with the name 'a.o\\u{a}b.o': names have 1–100 of A-Z a-z 0-9 . _ -",
    () => named('a.o\nb.o'),
  ),
  bad(
    'a name that is not ASCII',
    'bad_name',
    "The bundle has an entry with the name 'ä.o': names have 1–100 of A-Z a-z 0-9 . _ -",
    () => named('\xe4.o'),
  ),
  bad(
    'something behind the NUL of a name',
    'noncanonical_header',
    "The bundle's entry 'a.o' has another name in its tar header than a bundle's entries have.",
    () => aField(4, 'evil'),
  ),
  bad('a file twice', 'duplicate_name', "The bundle has 'a.o' twice.", () => bundleOf([manifestEntry, a, a, b])),
  bad('a file twice, otherwise the second time', 'duplicate_name', "The bundle has 'a.o' twice.", () =>
    bundleOf([manifestEntry, a, { ...a, bytes: Buffer.from('\x7fELF 666') }, b]),
  ),
  bad(
    'two files that differ in case only',
    'case_duplicate',
    "The bundle has 'A.o' and 'a.o', which differ in case only.",
    () => bundleOf([manifestEntry, { ...a, name: 'A.o' }, a, b]),
  ),
  bad('a second manifest', 'duplicate_name', "The bundle has 'manifest.json' twice.", () =>
    bundleOf([manifestEntry, a, manifestEntry, b]),
  ),
  bad(
    'a manifest in capitals beside the manifest',
    'case_duplicate',
    "The bundle has 'manifest.json' and 'Manifest.json', which differ in case only.",
    () => bundleOf([manifestEntry, { ...manifestEntry, name: 'Manifest.json' }, a, b]),
  ),
  bad(
    'a manifest in capitals alone',
    'manifest_not_first',
    "The bundle begins with 'MANIFEST.JSON': its first entry must be manifest.json.",
    () => bundleOf([{ ...manifestEntry, name: 'MANIFEST.JSON' }, a, b]),
  ),
  bad(
    'the manifest last',
    'manifest_not_first',
    "The bundle begins with 'a.o': its first entry must be manifest.json.",
    () => bundleOf([a, b, manifestEntry]),
  ),
  bad('no manifest', 'manifest_not_first', "The bundle begins with 'a.o': its first entry must be manifest.json.", () =>
    bundleOf([a, b]),
  ),
  bad(
    'objects in another order',
    'entry_order',
    "The bundle has 'a.o' behind 'b.o': entries stand in the order of their names.",
    () => bundleOf([manifestEntry, b, a]),
  ),
];

const FIELDS: readonly HostileCase[] = [
  bad(
    'a wrong checksum in a header',
    'tar_checksum',
    'A tar header of the bundle has a wrong checksum: fetch or pack it again.',
    () => {
      const tar = tarOf(entriesOf());
      tar[0] = 0x4d;
      return squeeze(tar);
    },
  ),
  bad(
    'a checksum that is no number',
    'tar_checksum',
    'A tar header of the bundle has a wrong checksum: fetch or pack it again.',
    () => {
      const tar = tarOf(entriesOf());
      tar.write('xxxxxx', 148);
      return squeeze(tar);
    },
  ),
  bad(
    'a checksum written otherwise',
    'noncanonical_header',
    "The bundle's entry 'manifest.json' has another chksum in its tar header than a bundle's entries have.",
    () => {
      const tar = tarOf(entriesOf());
      tar.write(' ', 148 + 6);
      return squeeze(tar);
    },
  ),
  bad(
    'a size in base 256',
    'size_field',
    "The size of the bundle's entry 'a.o' is not 11 octal digits and a NUL.",
    () => aField(124, '\x80\0\0\0\0\0\0\0\0\0\0\x08'),
  ),
  bad('a negative size', 'size_field', "The size of the bundle's entry 'a.o' is not 11 octal digits and a NUL.", () =>
    aField(124, '\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf8'),
  ),
  bad(
    'a size with spaces',
    'size_field',
    "The size of the bundle's entry 'a.o' is not 11 octal digits and a NUL.",
    () => aField(124, '         10\0'),
  ),
  bad(
    'a size that is not octal',
    'size_field',
    "The size of the bundle's entry 'a.o' is not 11 octal digits and a NUL.",
    () => aField(124, '00000000018\0'),
  ),
  bad(
    'a size with more zeros',
    'size_field',
    "The size of the bundle's entry 'a.o' is not 11 octal digits and a NUL.",
    () => aField(124, '000000000010'),
  ),
  bad(
    'a declared size of 8 GiB',
    'entry_truncated',
    "The bundle's entry 'a.o' has 8589934591 bytes by its header, and the tar ends before.",
    () => aField(124, '77777777777\0'),
  ),
  bad(
    'a set-user-id file',
    'noncanonical_header',
    "The bundle's entry 'a.o' has another mode in its tar header than a bundle's entries have.",
    () => aField(100, '0004755\0'),
  ),
  bad(
    "somebody's file",
    'noncanonical_header',
    "The bundle's entry 'a.o' has another uid in its tar header than a bundle's entries have.",
    () => aField(108, '0001750\0'),
  ),
  bad(
    'a modification time',
    'noncanonical_header',
    "The bundle's entry 'a.o' has another mtime in its tar header than a bundle's entries have.",
    () => aField(136, '14712345670\0'),
  ),
  bad(
    'a file with a link name',
    'noncanonical_header',
    "The bundle's entry 'a.o' has another linkname in its tar header than a bundle's entries have.",
    () => aField(157, '/etc/shadow'),
  ),
  bad(
    'an owner by name',
    'noncanonical_header',
    "The bundle's entry 'a.o' has another uname in its tar header than a bundle's entries have.",
    () => aField(265, 'root'),
  ),
  bad(
    'a device number',
    'noncanonical_header',
    "The bundle's entry 'a.o' has another devmajor in its tar header than a bundle's entries have.",
    () => aField(329, '0000010\0'),
  ),
  bad(
    'something in the filling of a header',
    'noncanonical_header',
    "The bundle's entry 'a.o' has another filling in its tar header than a bundle's entries have.",
    () => aField(500, 'hidden'),
  ),
];

const ENDS: readonly HostileCase[] = [
  bad(
    'something between a file and the next',
    'padding',
    "Something is hidden behind the bundle's entry 'a.o', up to the next block.",
    () => bundleOf([manifestEntry, { ...a, padding: Buffer.alloc(512 - a.bytes.length, 'x') }, b]),
  ),
  bad(
    'one block of zeros at the end',
    'tar_end',
    "The bundle's tar ends with one block of zeros where there must be two.",
    () => bundleOf(entriesOf(), Buffer.alloc(512)),
  ),
  bad('no blocks of zeros at the end', 'tar_end', "The bundle's tar has no end (two blocks of zeros).", () =>
    bundleOf(entriesOf(), empty),
  ),
  bad(
    'one block of zeros, and then more files',
    'tar_end',
    "The bundle's tar ends with one block of zeros where there must be two.",
    () => squeeze(Buffer.concat([tarOf(entriesOf(), Buffer.alloc(512)), tarOf([a])])),
  ),
  bad(
    'twenty blocks of zeros, as GNU tar writes them',
    'tar_trailing',
    "Something stands behind the end of the bundle's tar.",
    () => bundleOf(entriesOf(), Buffer.alloc(10_240)),
  ),
  bad('a second tar behind the end', 'tar_trailing', "Something stands behind the end of the bundle's tar.", () =>
    bundleOf(entriesOf(), Buffer.concat([END, tarOf(entriesOf())])),
  ),
  bad(
    'a tar cut within a block',
    'tar_length',
    "The bundle's tar has 4508 bytes, which is no whole number of blocks of 512.",
    () => squeeze(tarOf(entriesOf()).subarray(0, -100)),
  ),
  bad(
    'a tar cut within a file',
    'entry_truncated',
    "The bundle's entry 'manifest.json' has 680 bytes by its header, and the tar ends before.",
    () => squeeze(tarOf(entriesOf()).subarray(0, 1024)),
  ),
  bad('a tar without entries', 'empty', 'The bundle is empty: pack it again.', () => bundleOf([])),
  bad('a frame without content', 'empty', 'The bundle is empty: pack it again.', () => squeeze(empty)),
  over('33 objects', 'too_many_files', 'The bundle has more than 33 entries, with its manifest.', () => {
    const many = Array.from({ length: 33 }, (_, at) => ({
      name: `o${String(at).padStart(2, '0')}.o`,
      bytes: Buffer.from('x'),
    }));
    return bundleOf([manifestEntry, ...many]);
  }),
  over(
    'a manifest of more than 1 MiB',
    'manifest_size',
    "The bundle's manifest has 1048577 bytes: at most 1048576.",
    () => bundleOf([{ name: MANIFEST_FILE, bytes: Buffer.alloc(1024 * 1024 + 1, ' ') }, a, b]),
  ),
];

export const HOSTILE_TARS: readonly HostileCase[] = [...TYPES, ...NAMES, ...FIELDS, ...ENDS];
