import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { beforeAll, describe, expect, test } from 'vitest';
import type { Entry } from '../src/backup/manifest/lines.ts';
import { putTogether } from './backup-forge.ts';
import { type MadeBackup, openMade } from './backup-maker.ts';
import { type Proving, provingGround } from './proving-ground.ts';

/** Archives and manifests altered by whoever holds the storage, or signed by a node that lies about its entries. Whatever comes: nothing outside the
 *  target is touched, and what stands under a final name is what a trusted node signed. */

let proving: Proving;
beforeAll(async () => {
  proving = await provingGround();
  return () => proving[Symbol.dispose]();
});

test('unaltered, both are restored whole', async () => {
  expect(proving.isWhole(await proving.attempt(proving.plain))).toBe(true);
  expect(proving.isWhole(await proving.attempt(proving.sealed))).toBe(true);
});

describe('whoever holds the storage', () => {
  const flip = (bytes: Buffer, at: number, bit = 0): Buffer => {
    const altered = Buffer.from(bytes);
    altered[at] = (altered[at] ?? 0) ^ (1 << bit);
    return altered;
  };
  const alterations: Record<string, (made: MadeBackup) => Partial<MadeBackup>> = {
    'statement: payload altered': ({ statement }) => ({
      statement: flip(statement, statement.indexOf('"payload":"') + 40),
    }),
    'statement: signature altered': ({ statement }) => ({
      statement: flip(statement, statement.indexOf('"sig":"') + 20),
    }),
    'statement: cut off': ({ statement }) => ({ statement: statement.subarray(0, -10) }),
    'statement: empty': () => ({ statement: Buffer.alloc(0) }),
    'statement: of another node': () => ({ node: generateKeyPair() }),
    'manifest: first byte': ({ manifest }) => ({ manifest: flip(manifest, 0) }),
    'manifest: last byte': ({ manifest }) => ({ manifest: flip(manifest, manifest.length - 1) }),
    'manifest: cut off': ({ manifest }) => ({ manifest: manifest.subarray(0, -1) }),
    'manifest: longer': ({ manifest }) => ({ manifest: Buffer.concat([manifest, Buffer.alloc(1)]) }),
    'manifest: empty': () => ({ manifest: Buffer.alloc(0) }),
    'archive: empty': () => ({ archive: Buffer.alloc(0) }),
    'archive: cut off by a byte': ({ archive }) => ({ archive: archive.subarray(0, -1) }),
    'archive: half of it': ({ archive }) => ({ archive: archive.subarray(0, archive.length >> 1) }),
    'archive: longer by a byte': ({ archive }) => ({ archive: Buffer.concat([archive, Buffer.alloc(1)]) }),
    'archive: twice': ({ archive }) => ({ archive: Buffer.concat([archive, archive]) }),
  };
  const refusals: Record<string, string> = {
    'statement: payload altered': 'backups.bad_statement',
    'statement: signature altered': 'backups.bad_statement',
    'statement: cut off': 'backups.bad_statement',
    'statement: empty': 'backups.bad_statement',
    'statement: of another node': 'backups.untrusted_node',
    'manifest: first byte': 'backups.bad_manifest sha256',
    'manifest: last byte': 'backups.bad_manifest sha256',
    'manifest: cut off': 'backups.bad_manifest size',
    'manifest: longer': 'backups.bad_manifest size',
    'manifest: empty': 'backups.bad_manifest size',
    'archive: empty': 'backups.bad_archive size',
    'archive: cut off by a byte': 'backups.bad_archive size',
    'archive: half of it': 'backups.bad_archive size',
    'archive: longer by a byte': 'backups.bad_archive size',
    'archive: twice': 'backups.bad_archive size',
  };
  for (const [name, alter] of Object.entries(alterations))
    test(`${name}: refused before anything is written`, async () => {
      for (const made of [proving.plain, proving.sealed]) {
        const tried = await proving.attempt({ ...made, ...alter(made) });
        expect(tried.refused).toBe(refusals[name]);
        expect(readdirSync(tried.target)).toEqual([]);
      }
    });

  test('a proving.source that gives fewer or more bytes than its size', async () => {
    for (const made of [proving.plain, proving.sealed])
      for (const lengths of [made.archive.length - 1000, made.archive.length + 1000]) {
        await using backup = await openMade(made, {
          archive: {
            size: made.archive.length,
            read: async function* () {
              yield Buffer.concat([made.archive, Buffer.alloc(2000)]).subarray(0, lengths);
            },
          },
        });
        const target = proving.newTarget();
        await expect(backup.restore({ target, owners: true, setuid: true })).rejects.toMatchObject({
          code: 'backups.bad_archive',
        });
        proving.expectOnlyTruth({ result: null, refused: null, target });
      }
  });

  test('a bit anywhere in the archive: told loudly, and what is there is true', {
    timeout: process.env.AEGIS_LONG ? 1_800_000 : 60_000,
  }, async () => {
    const flips = process.env.AEGIS_LONG ? 3000 : 20;
    for (const made of [proving.plain, proving.sealed])
      for (let index = 0; index < flips; index++) {
        const random = createHash('sha256').update(`flip ${index}`).digest();
        // Half of them where headers and frames begin or end.
        const ends = [0, 50, 200, made.archive.length - 30];
        const near = ends[index % ends.length] ?? 0;
        const at = index % 2 === 0 ? random.readUInt32LE(0) % made.archive.length : near + ((random[5] ?? 0) % 30);
        const target = join(proving.base, `flip-${index}`);
        mkdirSync(target);
        const tried = await proving.attempt(
          { ...made, archive: flip(made.archive, at, (random[4] ?? 0) % 8) },
          {},
          target,
        );
        expect(tried.refused, `bit at ${at}`).toMatch(/^backups\.(bad_archive|wrong_identity)/);
        proving.expectOnlyTruth(tried);
        rmSync(target, { recursive: true });
      }
  });

  test('pieces of the archive in another order', async () => {
    const half = proving.plain.archive.length >> 1;
    const swapped = Buffer.concat([proving.plain.archive.subarray(half), proving.plain.archive.subarray(0, half)]);
    const tried = await proving.attempt({ ...proving.plain, archive: swapped });
    expect(tried.refused).toMatch(/^backups\.bad_archive/);
    proving.expectOnlyTruth(tried);
    const segment = 64 * 1024 + 16;
    const from = proving.sealed.archive.length % segment; // any bytes will do: two neighbouring segments change places
    const moved = Buffer.concat([
      proving.sealed.archive.subarray(0, from + segment),
      proving.sealed.archive.subarray(from + 2 * segment, from + 3 * segment),
      proving.sealed.archive.subarray(from + segment, from + 2 * segment),
      proving.sealed.archive.subarray(from + 3 * segment),
    ]);
    const other = await proving.attempt({ ...proving.sealed, archive: moved });
    expect(other.refused).toMatch(/^backups\.bad_archive/);
    proving.expectOnlyTruth(other);
  });

  test('a damaged frame costs its entries only, and the restore still fails', async () => {
    const tried = await proving.attempt({
      ...proving.plain,
      archive: flip(proving.plain.archive, proving.plain.archive.length - 100),
    });
    expect(tried.refused).toMatch(/^backups\.bad_archive/);
    const there = proving.expectOnlyTruth(tried);
    expect(there.has('folder/small')).toBe(true);
  });
});

describe('a hostile node signs another entry than the header', () => {
  const alterations: Record<string, (entry: Entry) => Partial<Entry>> = {
    path: ({ path }) => ({ path: Buffer.concat([path, Buffer.from('x')]) }),
    kind: () => ({ kind: 'fifo' as const }),
    mode: ({ mode }) => ({ mode: mode ^ 0o4000 }),
    uid: ({ uid }) => ({ uid: uid + 1 }),
    gid: ({ gid }) => ({ gid: gid + 1 }),
    user: () => ({ user: 'other' }),
    group: () => ({ group: 'other' }),
    size: ({ size }) => ({ size: size + 1 }),
    mtime: () => ({ mtime: '1.000000000' }),
    sha256: () => ({ sha256: '0'.repeat(64) }),
    header_sha256: () => ({ header_sha256: '0'.repeat(64) }),
    sparse: () => ({ sparse: true }),
    'target of a symlink': ({ kind }) => (kind === 'symlink' ? { target: Buffer.from('/etc') } : {}),
    'target of a hard link': ({ kind }) => (kind === 'hardlink' ? { target: Buffer.from('etc/passwd') } : {}),
  };
  const of: Record<string, string> = { 'target of a symlink': 'symlink', 'target of a hard link': 'large-link' };
  for (const [field, alter] of Object.entries(alterations))
    test(`${field}: that entry is not restored, all others are`, async () => {
      for (const name of of[field] ? [of[field]] : ['folder/small', 'large']) {
        const path = Buffer.from(`${proving.source.slice(1)}/${name}`);
        const entries = proving.parts.entries.map((entry) => {
          if (!entry.path.equals(path)) return entry;
          const altered = { ...entry, ...alter(entry) };
          if (altered.kind !== 'file') delete altered.sha256;
          return altered;
        });
        const tried = await proving.attempt(await putTogether({ ...proving.parts, entries }, proving.plain.node));
        expect(tried.refused).toBe(null);
        // Where a hard link's first name is altered, the link goes without it too.
        const lost = name === 'large' ? [name, 'large-link'] : [name];
        expect(tried.result?.errors.map((error) => error.path.toString().split('/').at(-1)?.replace(/x$/, ''))).toEqual(
          lost.map((one) => one.split('/').at(-1)),
        );
        const there = proving.expectOnlyTruth(tried);
        expect([...proving.wanted.keys()].filter((one) => !there.has(one)).sort()).toEqual([...lost].sort());
      }
    });
  for (const [field, change] of [
    ['offset', 512],
    ['length', 512],
  ] as const)
    test(`${field}: the manifest is refused`, async () => {
      const entries = proving.parts.entries.map((entry, at) =>
        at === 3 ? { ...entry, [field]: entry[field] + change } : entry,
      );
      const tried = await proving.attempt(await putTogether({ ...proving.parts, entries }, proving.plain.node));
      expect(tried.refused).toBe('backups.bad_manifest order');
      expect(readdirSync(tried.target)).toEqual([]);
    });
});
