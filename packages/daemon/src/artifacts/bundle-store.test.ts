import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { BodySink } from '../platform/http/door.ts';
import { silentLog } from '../platform/log.ts';
import { type BundleOf, bundleStore } from './bundle-store.ts';

let folder: string;
beforeEach(() => {
  folder = join(mkdtempSync(join(tmpdir(), 'aegis-bundles-')), 'artifacts');
});
afterEach(() => rmSync(join(folder, '..'), { recursive: true }));

const bundleOf = (bytes: Buffer): BundleOf => ({
  artifactId: `id-${bytes.length}`,
  sha256: createHash('sha256').update(bytes).digest('hex'),
  size: bytes.length,
});
const storeWith = (
  download: (bundle: BundleOf, sink: BodySink) => Promise<void>,
  { maxBytes = 1000, used = new Set<string>() } = {},
) =>
  bundleStore({
    folder,
    maxBytes,
    download,
    inUse: () => used,
    faults: noFaultPoints,
    log: silentLog(),
    signal: new AbortController().signal,
  });
const sending =
  (...parts: Buffer[]) =>
  async (_: BundleOf, sink: BodySink): Promise<void> => {
    await sink.begin();
    for (const part of parts) await sink.write(part);
  };

test('what came whole is there, is read again, and fetched once by many', async () => {
  const bytes = Buffer.from('a bundle');
  let downloads = 0;
  const store = storeWith(async (bundle, sink) => {
    downloads++;
    await sending(bytes.subarray(0, 3), bytes.subarray(3))(bundle, sink);
  });
  const bundle = bundleOf(bytes);
  expect(store.has(bundle.sha256)).toBe(false);
  expect(await store.read(bundle)).toBe(null);
  await Promise.all([store.fetch(bundle), store.fetch(bundle), store.fetch(bundle)]);
  expect(downloads).toBe(1);
  expect(store.has(bundle.sha256)).toBe(true);
  expect((await store.read(bundle))?.equals(bytes)).toBe(true);
  expect(store.bytes()).toBe(bytes.length);
});

test('an exchange that broke off and began anew counts from its new beginning', async () => {
  const bytes = Buffer.from('a bundle');
  const store = storeWith(async (bundle, sink) => {
    await sending(Buffer.from('half a'))(bundle, sink);
    await sending(bytes)(bundle, sink);
  });
  await store.fetch(bundleOf(bytes));
  expect((await store.read(bundleOf(bytes)))?.equals(bytes)).toBe(true);
});

test('more bytes than were announced are not written', async () => {
  const bundle = bundleOf(Buffer.alloc(10));
  let written = 0;
  const store = storeWith(async (_, sink) => {
    await sink.begin();
    for (;;) {
      await sink.write(Buffer.alloc(4));
      written += 4;
    }
  });
  await expect(store.fetch(bundle)).rejects.toMatchObject({
    code: 'artifacts.digest_mismatch',
    message: expect.stringContaining('longer than the 10 bytes'),
  });
  expect(written).toBe(8);
  expect(readdirSync(folder)).toEqual([]);
  expect(store.bytes()).toBe(0);
});

test('at most two are on their way, and all together stay within their room', async () => {
  const bundles = [1, 2, 3, 4].map((n) => Buffer.alloc(300, n));
  const used = new Set(bundles.map((bytes) => bundleOf(bytes).sha256));
  let now = 0;
  let most = 0;
  let twoBegan = (): void => undefined;
  const two = new Promise<void>((resolve) => {
    twoBegan = resolve;
  });
  const store = storeWith(
    async (bundle, sink) => {
      most = Math.max(most, ++now);
      if (now === 2) twoBegan();
      await two;
      await new Promise((resolve) => setImmediate(resolve));
      const bytes = bundles.find((one) => bundleOf(one).sha256 === bundle.sha256) ?? Buffer.alloc(0);
      await sending(bytes)(bundle, sink);
      now--;
    },
    { used },
  );
  const results = await Promise.allSettled(bundles.map((bytes) => store.fetch(bundleOf(bytes))));
  expect(most).toBe(2);
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'fulfilled', 'rejected']);
  expect(results[3]).toMatchObject({ reason: { code: 'artifacts.storage_full' } });
  // What is no longer needed makes room.
  used.delete(bundleOf(bundles[0] ?? Buffer.alloc(0)).sha256);
  await store.fetch(bundleOf(bundles[3] ?? Buffer.alloc(0)));
  expect(readdirSync(folder)).toHaveLength(3);
});

test('what is no bundle goes at the start, and so does what nobody needs', async () => {
  const bytes = Buffer.from('a bundle');
  const { sha256 } = bundleOf(bytes);
  await storeWith(sending(bytes)).fetch(bundleOf(bytes));
  writeFileSync(join(folder, `${sha256}.1-1.part`), 'half');
  writeFileSync(join(folder, 'notes.txt'), 'x');
  const needed = storeWith(sending(), { used: new Set([sha256]) });
  await needed.sweep();
  expect(readdirSync(folder)).toEqual([`${sha256}.tar.zst`]);
  expect(needed.has(sha256)).toBe(true);
  await storeWith(sending()).sweep();
  expect(readdirSync(folder)).toEqual([]);
  expect(existsSync(folder)).toBe(true);
});
