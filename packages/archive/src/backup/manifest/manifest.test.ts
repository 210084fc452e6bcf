import { createHash } from 'node:crypto';
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { AegisError } from '@aegis/protocol/errors';
import { expect, test } from 'vitest';
import { generateIdentity, parseIdentities } from '../age/keys.ts';
import { entryText } from './line-text.ts';
import { type Entry, MAX_PATH_BYTES, type ManifestEnd, type ManifestLine } from './lines.ts';
import { type ManifestLimits, readManifest } from './read.ts';
import { type ManifestWriter, manifestWriter } from './write.ts';

const HEADER = { run_id: '0190a0b0-0000-7000-8000-000000000000', sources: ['/home'], nested: { a: [1, null, 'ü'] } };
const SHA = createHash('sha256').update('x').digest('hex');
const file = (path: string | Buffer, offset: number, more: Partial<Entry> = {}): Entry => ({
  path: Buffer.from(path as string),
  kind: 'file',
  mode: 0o644,
  uid: 1000,
  gid: 1000,
  user: 'someone',
  group: '',
  size: 5,
  mtime: '1700000000.000000001',
  sha256: SHA,
  header_sha256: SHA,
  offset,
  length: 1024,
  ...more,
});
const without = ({ sha256: _, ...entry }: Entry): Entry => entry;
const ENTRIES: Entry[] = [
  without(file('.', 0, { kind: 'directory', size: 0, mode: 0o4755 })),
  file('home/"quoted"\\ \n\t\u2028\u{1f600}', 1024),
  file(Buffer.from('bad\xff\xfe', 'latin1'), 2048, { sparse: true, size: 2 ** 40 }),
  without(file('home/link', 3072, { kind: 'symlink', target: Buffer.from('../\xff', 'latin1') })),
  without(file('home/hard', 4096, { kind: 'hardlink', target: Buffer.from('home/x') })),
  without(file('home/socket', 5120, { kind: 'socket', length: 0 })),
  without(file('home/null', 5120, { kind: 'character', mtime: '-5.999999999', user: 'ö"', uid: 0xffff_ffff })),
  file('home/changed', 6144, { status: 'changed', mode: 0o7777 }),
];
const TAR_BYTES = 7168 + 1024;
const END: Omit<ManifestEnd, 'entries' | 'errors'> = { tar_bytes: TAR_BYTES, archive: { bytes: 300, sha256: SHA } };

const written = async (
  fill: (writer: ManifestWriter) => void | Promise<void>,
  { recipients = [] as string[], end = END } = {},
): Promise<{ bytes: Buffer; stated: { bytes: number; sha256: string } }> => {
  const pieces: Buffer[] = [];
  const writer = manifestWriter(
    { write: (bytes) => void pieces.push(Buffer.from(bytes)) },
    { header: HEADER, recipients },
  );
  await fill(writer);
  const stated = await writer.end(end);
  return { bytes: Buffer.concat(pieces), stated };
};
const fillWell = (writer: ManifestWriter): void => {
  for (const entry of ENTRIES) writer.entry(entry);
  writer.error({ path: Buffer.from('home/gone'), code: 'ENOENT', message: "It was there, and isn't." });
  writer.frame(4096, 100);
  writer.frame(TAR_BYTES - 4096, 200);
};
const inPieces = async function* (bytes: Buffer, step: number) {
  for (let at = 0; at < bytes.length; at += step) yield bytes.subarray(at, at + step);
};
const read = async (
  bytes: Buffer,
  {
    step = 1000,
    identities = null as Parameters<typeof readManifest>[1]['identities'],
    limits = {} as Partial<ManifestLimits>,
  } = {},
): Promise<ManifestLine[]> => {
  const lines: ManifestLine[] = [];
  for await (const line of readManifest(inPieces(bytes, step), { identities, limits })) lines.push(line);
  return lines;
};
const EXPECTED: ManifestLine[] = [
  { type: 'backup', header: HEADER },
  ...ENTRIES.map((entry) => ({ type: 'entry' as const, ...entry })),
  { type: 'error', path: Buffer.from('home/gone'), code: 'ENOENT', message: "It was there, and isn't." },
  {
    type: 'frames',
    frames: [
      [4096, 100],
      [TAR_BYTES - 4096, 200],
    ],
  },
  { type: 'end', entries: ENTRIES.length, errors: 1, ...END },
];

test.each([1, 7, 1_000_000])('what is written is read, %i bytes at a time', async (step) => {
  const { bytes, stated } = await written(fillWell);
  expect(await read(bytes, { step })).toEqual(EXPECTED);
  expect(stated).toEqual({ bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') });
});

test('encrypted: read by any recipient, by no one else, and never taken for plain', async () => {
  const [own, second, other] = [generateIdentity(), generateIdentity(), generateIdentity()];
  const end = { ...END, archive: { bytes: 600, sha256: SHA } };
  const expected = EXPECTED.map((line) => (line.type === 'end' ? { ...line, ...end } : line));
  const { bytes, stated } = await written(fillWell, { recipients: [own.recipient, second.recipient], end });
  expect(stated).toEqual({ bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') });
  for (const { identity } of [own, second])
    expect(await read(bytes, { identities: parseIdentities(identity) })).toEqual(expected);
  expect(await refusalOf(read(bytes, { identities: parseIdentities(other.identity) }))).toBe('backups.wrong_identity');
  expect(await refusalOf(read(bytes))).toBe('backups.bad_manifest zstd_magic');
  const plain = (await written(fillWell)).bytes;
  expect(await refusalOf(read(plain, { identities: parseIdentities(own.identity) }))).toBe(
    'backups.bad_archive age_header',
  );
});

test('each line is what JSON.stringify makes of the same object', () => {
  for (const entry of ENTRIES) {
    const text = entryText(entry);
    expect(JSON.stringify(JSON.parse(text))).toBe(text);
  }
});

test('a slow sink holds the writer back, and a failing one ends it', async () => {
  const waiting: (() => void)[] = [];
  const writer = manifestWriter(
    { write: () => new Promise<void>((resolve) => waiting.push(resolve)) },
    { header: {}, recipients: [] },
  );
  const long = file('x'.repeat(100_000), 0);
  let held = writer.entry(long);
  let count = 1;
  for (; held === undefined && count < 100; count++) held = writer.entry(long);
  expect(count).toBeLessThan(30); // three pieces of half a MiB
  let released = false;
  const going = Promise.resolve(held).then(() => {
    released = true;
  });
  await expect.poll(() => waiting.length, { timeout: 20_000 }).toBe(1);
  expect(released).toBe(false);
  waiting[0]?.();
  await expect.poll(() => waiting.length, { timeout: 20_000 }).toBe(2);
  expect(released).toBe(false);
  waiting[1]?.();
  await going;

  const failing = manifestWriter(
    { write: () => Promise.reject(new Error('the disk is full')) },
    { header: {}, recipients: [] },
  );
  for (let nr = 0; nr < 5; nr++) failing.entry(long);
  await expect(failing.end(END)).rejects.toThrow('the disk is full');
});

test('what is too long is not recorded', async () => {
  const writer = manifestWriter({ write: () => undefined }, { header: {}, recipients: [] });
  const refusal = refusalOf((async () => writer.entry(file(Buffer.alloc(MAX_PATH_BYTES + 1, 'x'), 0)))());
  expect(await refusal).toBe('backups.limit');
  const { bytes } = await written(
    (one) => {
      one.error({ path: Buffer.from('a'), code: 'EIO', message: `${'m'.repeat(999)}\u{1f600}` });
      one.entry(file('a/'.repeat(100_000).concat('\u0001'.repeat(50_000)), 0));
      one.frame(2048, 300);
    },
    { end: { ...END, tar_bytes: 2048 } },
  );
  const lines = await read(bytes, { step: 100_000 });
  expect(lines[1]).toEqual({ type: 'error', path: Buffer.from('a'), code: 'EIO', message: `${'m'.repeat(999)}\ufffd` });
  expect(lines).toHaveLength(5);
});

test('thirty thousand entries, in order', async () => {
  const count = 30_000;
  const { bytes } = await written(
    async (writer) => {
      for (let nr = 0; nr < count; nr++) {
        await writer.entry(file(`folder-${nr % 100}/file-${nr}`, nr * 1024));
        await writer.frame(1024, 3);
      }
      writer.frame(1024, 5);
    },
    { end: { tar_bytes: (count + 1) * 1024, archive: { bytes: 3 * count + 5, sha256: SHA } } },
  );
  let entries = 0;
  for await (const line of readManifest(inPieces(bytes, 65_536), { identities: null }))
    if (line.type === 'entry') expect(line.path.toString()).toBe(`folder-${entries % 100}/file-${entries++}`);
  expect(entries).toBe(count);
});

const refusalOf = async (act: Promise<unknown>): Promise<string> => {
  try {
    await act;
  } catch (fault) {
    if (fault instanceof AegisError) return `${fault.code} ${fault.details.reason ?? ''}`.trim();
    throw fault;
  }
  return 'accepted';
};

const goodText = async (): Promise<string> => zstdDecompressSync((await written(fillWell)).bytes).toString('utf8');
const packedText = (text: string | Buffer): Buffer => zstdCompressSync(text);

test.each<[string, string, (text: string) => string | Buffer]>([
  ['as it is', 'accepted', (text) => text],
  ['nothing in it', 'backups.bad_manifest truncated', () => ''],
  ['no end', 'backups.bad_manifest truncated', (text) => text.replace(/\{"type":"end".*\n/, '')],
  ['cut within a line', 'backups.bad_manifest truncated', (text) => text.slice(0, -1)],
  [
    'something behind the end',
    'backups.bad_manifest order',
    (text) => `${text}{"type":"error","path":"a","code":"a","message":""}\n`,
  ],
  ['a second end', 'backups.bad_manifest order', (text) => text.replace(/\{"type":"end".*\n/, '$&$&')],
  ['no beginning', 'backups.bad_manifest order', (text) => text.replace(/^.*\n/, '')],
  ['two beginnings', 'backups.bad_manifest order', (text) => text.replace(/^.*\n/, '$&$&')],
  ['another format', 'backups.bad_manifest line', (text) => text.replace('aegis-backup-1', 'aegis-backup-2')],
  [
    'an entry left out',
    'backups.bad_manifest order',
    (text) => text.replace(/\{"type":"entry","path":"home\/link".*\n/, ''),
  ],
  [
    'an entry twice',
    'backups.bad_manifest order',
    (text) => text.replace(/\{"type":"entry","path":"home\/link".*\n/, '$&$&'),
  ],
  ['a wrong count of entries', 'backups.bad_manifest order', (text) => text.replace('"entries":8', '"entries":7')],
  ['a wrong count of errors', 'backups.bad_manifest order', (text) => text.replace('"errors":1', '"errors":0')],
  [
    'a wrong length of the tar',
    'backups.bad_manifest order',
    (text) => text.replace(`"tar_bytes":${TAR_BYTES}`, `"tar_bytes":${TAR_BYTES + 512}`),
  ],
  ['frames that do not add up', 'backups.bad_manifest order', (text) => text.replace('[4096,100]', '[4096,101]')],
  ['no frames', 'backups.bad_manifest order', (text) => text.replace(/\{"type":"frames".*\n/, '')],
  ['an empty line', 'backups.bad_manifest line', (text) => text.replace('\n', '\n\n')],
  ['a space', 'backups.bad_manifest line', (text) => text.replace('"mode":420', '"mode": 420')],
  ['a key twice', 'backups.bad_manifest line', (text) => text.replace('"uid":1000', '"uid":0,"uid":1000')],
  [
    'keys in another order',
    'backups.bad_manifest line',
    (text) => text.replace('"uid":1000,"gid":1000', '"gid":1000,"uid":1000'),
  ],
  ['an unknown key', 'backups.bad_manifest line', (text) => text.replace('"uid":1000', '"uid":1000,"acl":""')],
  ['an unknown type', 'backups.bad_manifest line', (text) => text.replace('"type":"error"', '"type":"note"')],
  ['an unneeded escape', 'backups.bad_manifest line', (text) => text.replace('"someone"', '"\\u0073omeone"')],
  ['half a surrogate pair', 'backups.bad_manifest line', (text) => text.replace('"someone"', '"\\ud800"')],
  ['a number with a fraction', 'backups.bad_manifest line', (text) => text.replace('"size":5', '"size":5.5')],
  ['an exponent', 'backups.bad_manifest line', (text) => text.replace('"size":5', '"size":5e0')],
  ['a negative size', 'backups.bad_manifest line', (text) => text.replace('"size":5', '"size":-5')],
  ['a mode beyond 07777', 'backups.bad_manifest line', (text) => text.replace('"mode":420', '"mode":4096')],
  ['an offset that is no block', 'backups.bad_manifest line', (text) => text.replace('"offset":1024', '"offset":1025')],
  ['an upper-case digest', 'backups.bad_manifest line', (text) => text.replace(SHA, SHA.toUpperCase())],
  ['a file without a digest', 'backups.bad_manifest line', (text) => text.replace(`,"sha256":"${SHA}"`, '')],
  [
    'base64 of what is UTF-8',
    'backups.bad_manifest line',
    (text) => text.replace('"path":"home/changed"', `"path_b64":"${Buffer.from('home/changed').toString('base64')}"`),
  ],
  [
    'both names',
    'backups.bad_manifest line',
    (text) => text.replace('"path":"home/changed"', '"path":"home/changed","path_b64":"/w=="'),
  ],
  ['no name', 'backups.bad_manifest line', (text) => text.replace('"path":"home/changed",', '')],
  ['a target for a file', 'backups.bad_manifest line', (text) => text.replace('"status":"changed"', '"target":"x"')],
  ['a symlink without a target', 'backups.bad_manifest line', (text) => text.replace(/,"target_b64":"[^"]*"/, '')],
  [
    'a hard link that leads out',
    'backups.bad_manifest line',
    (text) => text.replace('"target":"home/x"', '"target":"../x"'),
  ],
  [
    'not UTF-8',
    'backups.bad_manifest line',
    (text) => Buffer.from(text.replace('"someone"', '"some\xffone"'), 'latin1'),
  ],
])('refuses %s', async (_, refusal, alter) => {
  expect(await refusalOf(read(packedText(alter(await goodText()))))).toBe(refusal);
});

test.each(['', '/etc', 'a/', 'a//b', '..', 'a/../b', './a', 'a/.', 'a\u0000b', '/'])(
  'refuses the path %j',
  async (path) => {
    const text = (await goodText()).replace('"path":"home/changed"', `"path":${JSON.stringify(path)}`);
    expect(await refusalOf(read(packedText(text)))).toBe('backups.bad_manifest line');
  },
);

test('limits: lines, entries, errors, text, nesting', async () => {
  const { bytes } = await written(fillWell);
  for (const limits of [{ lineBytes: 100 }, { entries: 7 }, { errors: 0 }, { textBytes: 1000 }])
    expect(await refusalOf(read(bytes, { limits }))).toBe('backups.bad_manifest limit');
  for (const limits of [{ lineBytes: 1000 }, { entries: 8 }, { errors: 1 }, { textBytes: 10_000 }])
    expect(await refusalOf(read(bytes, { limits }))).toBe('accepted');
  const nested = (await goodText()).replace(
    '"nested":',
    `"deep":${'['.repeat(200_000)}${']'.repeat(200_000)},"nested":`,
  );
  expect(await refusalOf(read(packedText(nested)))).toBe('backups.bad_manifest line');
  const endless = Buffer.concat(Array.from({ length: 3 }, () => zstdCompressSync(Buffer.alloc(2_000_000, 'x'))));
  expect(await refusalOf(read(endless, { step: 1_000_000 }))).toBe('backups.bad_manifest limit');
  expect(await refusalOf(read(zstdCompressSync(Buffer.alloc(9 * 1024 * 1024))))).toBe(
    'backups.bad_manifest zstd_limit',
  );
});

test('cut off or altered anywhere, it is refused or its lines are the same', async () => {
  const { bytes } = await written(fillWell);
  for (let end = 0; end < bytes.length; end++)
    expect(await refusalOf(read(bytes.subarray(0, end))), `${end}`).toMatch(
      /^backups\.bad_manifest (zstd_truncated|truncated)$/,
    );
  for (let at = 0; at < bytes.length; at++) {
    const altered = Buffer.from(bytes);
    altered[at] = (altered[at] ?? 0) ^ (1 << (at % 8));
    const lines = await read(altered).catch((fault: unknown) => {
      expect(fault, `byte ${at}`).toBeInstanceOf(AegisError);
      return EXPECTED;
    });
    expect(lines).toEqual(EXPECTED);
  }
});
