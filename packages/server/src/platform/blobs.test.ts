import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { BlobFault, type Blobs, openBlobs } from './blobs.ts';
import { blobCache } from './blobs-cache.ts';

let root: string;
let folder: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'aegis-blobs-'));
  folder = join(root, 'blobs');
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const opened = (): Promise<Blobs> => openBlobs({ folder, cacheBytes: 1024 * 1024, faults: noFaultPoints });
const digestOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const BYTES = Buffer.from('some bytes');
const DIGEST = digestOf(BYTES);
const path = () => join(folder, DIGEST.slice(0, 2), DIGEST);
const reasonOf = (work: Promise<unknown>) =>
  work.then(
    () => 'fine',
    (error: unknown) => (error instanceof BlobFault ? error.reason : String(error)),
  );

test('what is put is there for whoever opens the folder next, for its owner alone', async () => {
  await (await opened()).put(DIGEST, BYTES);
  await (await opened()).put(DIGEST, BYTES);
  expect(await (await opened()).read(DIGEST)).toEqual(BYTES);
  expect(readdirSync(join(folder, DIGEST.slice(0, 2)))).toEqual([DIGEST]);
  expect([statSync(path()).mode & 0o777, statSync(folder).mode & 0o777]).toEqual([0o600, 0o700]);
});

test('a damaged one, a link and a missing one are told apart from good ones; the first is mended by the next put', async () => {
  expect(await reasonOf((await opened()).read(DIGEST))).toBe('missing');
  await (await opened()).put(DIGEST, BYTES);
  writeFileSync(path(), 'other bytes');
  const blobs = await opened();
  expect(await reasonOf(blobs.read(DIGEST))).toBe('damaged');
  await blobs.put(DIGEST, BYTES);
  expect(await blobs.read(DIGEST)).toEqual(BYTES);
  rmSync(path());
  writeFileSync(join(root, 'elsewhere'), BYTES);
  symlinkSync(join(root, 'elsewhere'), path());
  expect(await reasonOf((await opened()).read(DIGEST))).toBe('damaged');
});

test('what is removed is gone, from memory too; removing it again changes nothing', async () => {
  const blobs = await opened();
  await blobs.put(DIGEST, BYTES);
  await blobs.read(DIGEST);
  await blobs.remove(DIGEST);
  await blobs.remove(DIGEST);
  expect(await reasonOf(blobs.read(DIGEST))).toBe('missing');
});

test('a sweep takes drafts and what nobody keeps, and nothing else', async () => {
  const blobs = await opened();
  const other = Buffer.from('other');
  await blobs.put(DIGEST, BYTES);
  await blobs.put(digestOf(other), other);
  writeFileSync(join(folder, DIGEST.slice(0, 2), '.0011.new'), 'half');
  mkdirSync(join(folder, 'lost+found'));
  expect(await blobs.sweep(async () => new Set([DIGEST]))).toBe(2);
  expect(readdirSync(folder, { recursive: true }).sort()).toEqual(
    [DIGEST.slice(0, 2), `${DIGEST.slice(0, 2)}/${DIGEST}`, digestOf(other).slice(0, 2), 'lost+found'].sort(),
  );
});

test('a full disk is told by its code and leaves nothing', async () => {
  mkdirSync(folder);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k,mode=0700', 'tmpfs', folder]);
  try {
    const large = Buffer.alloc(1024 * 1024, 7);
    const blobs = await opened();
    expect(await blobs.put(digestOf(large), large).catch((error: NodeJS.ErrnoException) => error.code)).toBe('ENOSPC');
    expect(readdirSync(join(folder, digestOf(large).slice(0, 2)))).toEqual([]);
    await blobs.put(DIGEST, BYTES);
    expect(await blobs.read(DIGEST)).toEqual(BYTES);
  } finally {
    execFileSync('umount', [folder]);
  }
});

test('all who ask at once wait for one reading; beyond its bytes the one unused longest goes', async () => {
  const cache = blobCache(10);
  const loads: string[] = [];
  const get = (key: string, bytes: number) =>
    cache.get(key, async () => {
      loads.push(key);
      return Buffer.alloc(bytes);
    });
  await Promise.all(Array.from({ length: 1000 }, () => get('a', 4)));
  await get('b', 4);
  await get('a', 4); // used again: b is older now
  await get('c', 4);
  await get('a', 4);
  await get('b', 4);
  await get('large', 11);
  await get('large', 11);
  expect(loads).toEqual(['a', 'b', 'c', 'b', 'large', 'large']);
  const failing = () => cache.get('x', () => Promise.reject(new Error('no')));
  await expect(failing()).rejects.toThrow('no');
  await expect(failing()).rejects.toThrow('no');
});
