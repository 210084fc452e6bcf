import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import { MANIFEST_FILE, Manifest, ManifestSource } from '@aegis/protocol/artifacts/manifest';
import fc from 'fast-check';
import { Parser } from 'tar';
import { expect, test } from 'vitest';
import { completeManifest, packBundle } from '../src/bundle/pack.ts';
import { readBundle } from '../src/bundle/read.ts';
import { FILES, goodManifest, SOURCE, sha256, tarOf } from './bundle-forge.ts';

/** Every object's keys the other way round. */
const reversed = <T>(value: T): T =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (Object.fromEntries(
        Object.entries(value)
          .reverse()
          .map(([key, member]) => [key, reversed(member)]),
      ) as T)
    : value;

test('the bytes of a bundle do not depend on the order of keys and files', async () => {
  const packed = await packBundle({ manifest: goodManifest(), files: FILES });
  const again = await packBundle({ manifest: reversed(goodManifest()), files: new Map([...FILES].reverse()) });
  expect(sha256(again)).toBe(sha256(packed));
});

test('the tar of a known bundle is the one that docs/artifact-format.md describes, on every machine', async () => {
  const packed = await packBundle({ manifest: goodManifest(), files: FILES });
  expect(sha256(zstdDecompressSync(packed))).toBe('ccdeeae4f6804515547cd7aadd63a4c9f134db1feafcba9c13ff10cc40217e7b');
  const { manifestBytes } = await readBundle(packed);
  expect(manifestBytes.toString()).toBe(
    [
      '{"architecture":"any","constants":[{"name":"target_ip","object":"a.o","settable":true,"type":"ipv4","value":"192.0.2.9"}],',
      '"description":"","features":[],"format":"aegis-artifact-1","kernel_version":"5.15","maps":[],"metadata":{},',
      '"name":"block-icmp","objects":[',
      '{"file":"a.o","kind":"object","sha256":"1ab54e74eb57f190ffbb847ac39ad1b20f45065bfe78ec25e1646599c14ccc2a","size":8},',
      '{"file":"b.o","kind":"object","sha256":"dabd0e2f12bd60b0b7de7e17e2bbfa75af2a71b71ab080c9280c863a60d1c692","size":16}],',
      '"programs":[{"attach":{"direction":"egress","interface":"eth0","kind":"tc","mechanism":"auto","priority":50},',
      '"name":"block","object":"a.o"}],"tags":[],"type":"program","version":"1.0.0"}',
    ].join(''),
  );
});

test('an author may leave out defaults; the bundle says them', () => {
  const manifest = completeManifest(ManifestSource.parse({ $schema: './schema.json', ...SOURCE }), FILES);
  expect(manifest).toMatchObject({ format: 'aegis-artifact-1', description: '', architecture: 'any', maps: [] });
  expect(manifest).not.toHaveProperty('$schema');
  expect(manifest.objects).toEqual([
    { file: 'a.o', kind: 'object', size: 8, sha256: sha256(Buffer.from('\x7fELF one')) },
    { file: 'b.o', kind: 'object', size: 16, sha256: sha256(Buffer.from('\x7fELF two, longer')) },
  ]);
});

test.each([
  [
    'a file that is not there',
    new Map([...FILES].slice(0, 1)),
    "The manifest names the object 'b.o', and it was not given.",
  ],
])('completing refuses %s', (_, files, sentence) => {
  expect(() => completeManifest(ManifestSource.parse(SOURCE), files)).toThrow(sentence);
});

test.each<[string, Partial<Parameters<typeof packBundle>[0]>, string | RegExp]>([
  [
    'a file too many',
    { files: new Map([...FILES, ['c.o', Buffer.of(1)]]) },
    "The manifest names no object 'c.o', and the bundle has it.",
  ],
  [
    'a file with other bytes',
    { files: new Map([...FILES, ['a.o', Buffer.from('\x7fELF two')]]) },
    "'a.o' has another SHA-256 than the manifest says.",
  ],
  [
    'what JSON cannot hold',
    {
      manifest: {
        ...goodManifest(),
        maps: [{ name: 'm', object: 'a.o', keep: false, initial: [{ key: 1n, value: 0 }] }],
      },
    },
    'The manifest cannot be written: a bigint has no JSON form.',
  ],
  [
    'a manifest above its limit',
    {
      manifest: {
        ...goodManifest(),
        maps: [{ name: 'm', object: 'a.o', keep: false, initial: [{ key: 'x'.repeat(1024 * 1024), value: 0 }] }],
      },
    },
    /^The bundle's manifest has \d+ bytes: at most 1048576\.$/,
  ],
])('packing refuses %s', async (_, otherwise, sentence) => {
  await expect(packBundle({ manifest: goodManifest(), files: FILES, ...otherwise })).rejects.toThrow(sentence);
});

const text = fc
  .string({ maxLength: 40, unit: 'grapheme' })
  .filter((value) => Manifest.shape.description.safeParse(value).success);
const label = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._-]{0,20}$/);
const identifier = fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_]{0,20}$/);
const attach = fc.oneof(
  fc.record({ kind: fc.constant('xdp'), interface: fc.constantFrom('eth0', 'eth*', 'default-route') }),
  fc.record({
    kind: fc.constant('tc'),
    interface: fc.constant('eth0'),
    direction: fc.constantFrom('ingress', 'egress'),
    priority: fc.integer({ min: 1, max: 1000 }),
  }),
  fc.record({ kind: fc.constant('cgroup_skb'), cgroup: fc.constant('/'), direction: fc.constant('egress') }),
  fc.record({ kind: fc.constant('tracepoint'), category: identifier, name: identifier }),
  fc.record({ kind: fc.constant('uprobe'), binary: fc.constant('/bin/sh'), offset: fc.integer({ min: 1 }) }),
);
const sources = fc
  .uniqueArray(fc.tuple(label, fc.uint8Array({ minLength: 1, maxLength: 3000 })), {
    minLength: 1,
    maxLength: 5,
    selector: ([name]) => name.toLowerCase(),
  })
  .filter((files) => files.every(([name]) => name.toLowerCase() !== MANIFEST_FILE))
  .chain((files) => {
    const object = fc.constantFrom(...files.map(([name]) => name));
    return fc.record({
      files: fc.constant(new Map(files)),
      source: fc.record({
        name: fc.stringMatching(/^[a-z0-9][a-z0-9._-]{0,20}$/),
        version: fc.tuple(fc.nat(), fc.nat(), fc.nat()).map((parts) => parts.join('.')),
        description: text,
        metadata: fc.dictionary(label, text),
        tags: fc.array(label, { maxLength: 5 }),
        objects: fc.constant(files.map(([file]) => ({ file }))),
        programs: fc.uniqueArray(fc.record({ name: identifier, object, attach }), {
          minLength: 1,
          maxLength: 5,
          selector: ({ name }) => name,
        }),
        constants: fc.uniqueArray(
          fc.record({ name: identifier, object, type: fc.constant('u32'), value: fc.nat(), settable: fc.boolean() }),
          { maxLength: 5, selector: ({ name }) => name },
        ),
        maps: fc.uniqueArray(
          fc.record({
            name: identifier,
            object,
            initial: fc.array(fc.record({ key: fc.jsonValue({ maxDepth: 3 }), value: fc.jsonValue({ maxDepth: 3 }) }), {
              maxLength: 3,
            }),
          }),
          { maxLength: 3, selector: ({ name }) => name },
        ),
      }),
    });
  });

test('what is packed is read, whatever it is', async () => {
  await fc.assert(
    fc.asyncProperty(sources, async ({ source, files }) => {
      const manifest = completeManifest(ManifestSource.parse(source), files);
      const packed = await packBundle({ manifest, files });
      const read = await readBundle(packed);
      expect(JSON.parse(read.manifestBytes.toString())).toEqual(JSON.parse(JSON.stringify(manifest)));
      expect(new Map([...read.files].sort())).toEqual(
        new Map([...files].sort().map(([name, bytes]) => [name, Buffer.from(bytes)])),
      );
      expect(sha256(await packBundle({ manifest: reversed(read.manifest), files: read.files }))).toBe(sha256(packed));
    }),
    { numRuns: 150 },
  );
}, 60_000);

const inFolder = async (use: (folder: string) => unknown): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-bundle-'));
  try {
    await use(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
};
const run = (folder: string, command: string): string =>
  execFileSync('/bin/sh', ['-ec', command], { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

test('packing refuses more than 64 MiB before it compresses', async () => {
  const files = new Map(['a.o', 'b.o', 'c.o', 'd.o'].map((name) => [name, Buffer.alloc(16 * 1024 * 1024)]));
  const source = { ...SOURCE, objects: [...files.keys()].map((file) => ({ file })) };
  const manifest = completeManifest(ManifestSource.parse(source), files);
  await expect(packBundle({ manifest, files })).rejects.toThrow(
    /^The bundle's tar would have 6711\d{4} bytes: at most 67108864\.$/,
  );
});

test('tar, zstd, sha256sum and node-tar accept a bundle and see in it what we see', async () => {
  const packed = await packBundle({ manifest: goodManifest(), files: FILES });
  await inFolder((folder) => {
    writeFileSync(join(folder, 'b.tar.zst'), packed);
    expect(run(folder, 'tar --zstd -tf b.tar.zst')).toBe('manifest.json\na.o\nb.o\n');
    run(folder, 'zstd -q -t b.tar.zst');
    expect(run(folder, 'zstd -l -v b.tar.zst')).toMatch(/Check: XXH64/);
    run(folder, 'mkdir out && tar --zstd -xf b.tar.zst -C out');
    for (const { file, sha256: digest } of goodManifest().objects)
      run(folder, `echo "${digest}  out/${file}" | sha256sum --check --strict`);
    expect(run(folder, 'sha256sum < b.tar.zst')).toBe(`${sha256(packed)}  -\n`);
  });
  const seen: string[] = [];
  const parser = new Parser({
    strict: true,
    onReadEntry: (entry) => {
      seen.push(`${entry.type} ${entry.path} ${entry.size}`);
      entry.resume();
    },
  });
  await new Promise<void>((resolve, reject) => {
    parser.on('end', resolve);
    parser.on('error', reject);
    parser.end(zstdDecompressSync(packed));
  });
  expect(seen).toEqual([`File manifest.json ${manifestBytes()}`, 'File a.o 8', 'File b.o 16']);
});
const manifestBytes = (): number => Buffer.byteLength(JSON.stringify(goodManifest()));

test('a bundle made by GNU tar and zstd, as docs/artifact-format.md says, has the same tar and is read', async () => {
  const packed = await packBundle({ manifest: goodManifest(), files: FILES });
  const { manifestBytes: text } = await readBundle(packed);
  await inFolder(async (folder) => {
    writeFileSync(join(folder, 'manifest.json'), text, { mode: 0o600 });
    for (const [name, bytes] of FILES) writeFileSync(join(folder, name), bytes, { mode: 0o755 });
    const options = '--format=ustar --owner=0 --group=0 --numeric-owner --mode=0644 --mtime=@0 --blocking-factor=1';
    run(folder, `tar ${options} -cf b.tar manifest.json a.o b.o && zstd -q -19 b.tar`);
    expect(readFileSync(join(folder, 'b.tar')).equals(zstdDecompressSync(packed))).toBe(true);
    const read = await readBundle(readFileSync(join(folder, 'b.tar.zst')));
    expect(read.manifest).toEqual(goodManifest());
  });
});

test('the forge and the writer make the same tar', async () => {
  const packed = await packBundle({ manifest: goodManifest(), files: FILES });
  const { manifestBytes: text } = await readBundle(packed);
  const entries = [{ name: MANIFEST_FILE, bytes: text }, ...[...FILES].map(([name, bytes]) => ({ name, bytes }))];
  expect(tarOf(entries).equals(zstdDecompressSync(packed))).toBe(true);
});
