import { badBundle, quoted } from './refusal.ts';

/** The one header that an entry of a bundle has: POSIX ustar, a plain file, mode 0644, owner, group and time zero, numbers in octal
 *  filled up with zeros and ended by NUL. The same bytes as
 *  `tar --format=ustar --owner=0 --group=0 --numeric-owner --mode=0644 --mtime=@0` of GNU tar writes. */

export const BLOCK_BYTES = 512;

/** Fields by offset and length (POSIX.1-2017, pax, "ustar Interchange Format"). */
const FIELDS = {
  name: [0, 100],
  mode: [100, 8],
  uid: [108, 8],
  gid: [116, 8],
  size: [124, 12],
  mtime: [136, 12],
  chksum: [148, 8],
  typeflag: [156, 1],
  linkname: [157, 100],
  magic: [257, 8],
  uname: [265, 32],
  gname: [297, 32],
  devmajor: [329, 8],
  devminor: [337, 8],
  prefix: [345, 155],
  filling: [500, 12],
} as const satisfies Record<string, readonly [offset: number, length: number]>;
type Field = keyof typeof FIELDS;

const MAGIC = 'ustar\u000000';
const FILE_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;

const octal = (value: number, digits: number): string => value.toString(8).padStart(digits, '0');

export const tarHeader = (name: string, size: number): Buffer => {
  const header = Buffer.alloc(BLOCK_BYTES);
  const put = (field: Field, text: string) => header.write(text, FIELDS[field][0], FIELDS[field][1], 'latin1');
  put('name', name);
  put('mode', octal(0o644, 7));
  for (const field of ['uid', 'gid', 'devmajor', 'devminor'] as const) put(field, octal(0, 7));
  put('size', octal(size, 11));
  put('mtime', octal(0, 11));
  put('typeflag', '0');
  put('magic', MAGIC);
  put('chksum', `${octal(checksumOf(header), 6)}\0 `);
  return header;
};

/** The sum of all bytes, those of the checksum itself counted as spaces. */
const checksumOf = (header: Buffer): number => {
  const [from, length] = FIELDS.chksum;
  let sum = length * 0x20;
  for (let at = 0; at < BLOCK_BYTES; at++) if (at < from || at >= from + length) sum += header[at] ?? 0;
  return sum;
};

const TYPES: Readonly<Record<string, readonly [reason: string, what: string]>> = {
  '\0': ['old_type', 'a file of the old tar format'],
  '1': ['link', 'a hard link'],
  '2': ['link', 'a symbolic link'],
  '3': ['device', 'a character device'],
  '4': ['device', 'a block device'],
  '5': ['directory', 'a directory'],
  '6': ['fifo', 'a FIFO'],
  '7': ['contiguous', 'a contiguous file'],
  x: ['pax_header', 'a PAX header'],
  g: ['pax_global_header', 'a global PAX header'],
  L: ['gnu_long_name', 'a GNU long name'],
  K: ['gnu_long_link', 'a GNU long link name'],
  S: ['gnu_sparse', 'a GNU sparse file'],
  D: ['directory', 'a GNU directory listing'],
  M: ['gnu_multivolume', 'part of a file on several volumes'],
  V: ['gnu_volume', 'a GNU volume label'],
};

/** Name and size, from the one form that `tarHeader` writes.
 *  @throws AegisError artifacts.bad_bundle naming the first thing that is otherwise */
export const readTarHeader = (header: Buffer): { name: string; size: number } => {
  const raw = (field: Field): string =>
    header.toString('latin1', FIELDS[field][0], FIELDS[field][0] + FIELDS[field][1]);
  const sum = /^ *([0-7]+)[\0 ]*$/.exec(raw('chksum'))?.[1];
  if (sum === undefined || Number.parseInt(sum, 8) !== checksumOf(header))
    throw badBundle('tar_checksum', 'A tar header of the bundle has a wrong checksum: fetch or pack it again.');
  const name = nameOf(raw('name'));
  const type = raw('typeflag');
  if (type !== '0') {
    const [reason, what] = TYPES[type] ?? ['entry_type', `of the unknown type ${quoted(type)}`];
    throw badBundle(reason, `The bundle's entry ${quoted(name)} is ${what}: a bundle holds plain files only.`);
  }
  if (raw('magic') !== MAGIC)
    throw badBundle('tar_format', `The bundle's entry ${quoted(name)} is not in the ustar format of POSIX.`);
  if (/[^\0]/.test(raw('prefix')))
    throw badBundle('prefix', `The bundle's entry ${quoted(name)} has a folder in its tar header's prefix.`);
  refuseName(name);
  const size = /^([0-7]{11})\0$/.exec(raw('size'))?.[1];
  if (size === undefined)
    throw badBundle('size_field', `The size of the bundle's entry ${quoted(name)} is not 11 octal digits and a NUL.`);
  const entry = { name, size: Number.parseInt(size, 8) };
  const canonical = tarHeader(entry.name, entry.size);
  if (header.equals(canonical)) return entry;
  const field = (Object.keys(FIELDS) as Field[]).find((one) => {
    const [from, length] = FIELDS[one];
    return one !== 'chksum' && !header.subarray(from, from + length).equals(canonical.subarray(from, from + length));
  });
  throw badBundle(
    'noncanonical_header',
    `The bundle's entry ${quoted(name)} has another ${field ?? 'chksum'} in its tar header than a bundle's entries have.`,
    { field: field ?? 'chksum' },
  );
};

/** Up to the first NUL: what stands behind it differs from the canonical header, and is refused there. */
const nameOf = (field: string): string => {
  const end = field.indexOf('\0');
  return end === -1 ? field : field.slice(0, end);
};

const refuseName = (name: string): void => {
  if (FILE_NAME.test(name)) return;
  if (name.startsWith('/'))
    throw badBundle('absolute_path', `The bundle has an entry with an absolute path, ${quoted(name)}.`);
  if (name.split(/[/\\]/).includes('..'))
    throw badBundle('parent_path', `The bundle has an entry whose path leads out of it, ${quoted(name)}.`);
  if (/[/\\]/.test(name))
    throw badBundle('folder_path', `The bundle has an entry in a folder, ${quoted(name)}: bundles have no folders.`);
  throw badBundle(
    'bad_name',
    `The bundle has an entry with the name ${quoted(name)}: names have 1–100 of A-Z a-z 0-9 . _ -`,
  );
};
