import { readFileSync, writeFileSync } from 'node:fs';
import { AegisError } from '@aegis/protocol/errors';
import { expect, test } from 'vitest';
import { readBundle } from '../src/bundle/read.ts';
import { bundleOf, entriesOf, FILES, goodManifest } from './bundle-forge.ts';
import { HOSTILE_CASES } from './hostile-cases.ts';

/** More than the greatest bundle takes (64 MiB and a window) a refusal never does. */
const MOST_MIB = 80;

const peakMib = (): number => Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) / 1024;
const forgetPeak = () => writeFileSync('/proc/self/clear_refs', '5');

test('what the forge makes without a fault is a bundle', async () => {
  const { manifest, files } = await readBundle(bundleOf(entriesOf()));
  expect(manifest).toEqual(goodManifest());
  expect(files).toEqual(FILES);
});

test('each case has a name of its own', () => {
  expect(new Set(HOSTILE_CASES.map(({ name }) => name)).size).toBe(HOSTILE_CASES.length);
});

test.each(HOSTILE_CASES)('refused: $name', async ({ bytes, code, reason, says }) => {
  const hostile = bytes();
  const before = peakOf();
  const refusal: unknown = await readBundle(hostile).catch((fault: unknown) => fault);
  expect(refusal).toBeInstanceOf(AegisError);
  const { code: is, message, details } = refusal as AegisError;
  expect({ code: is, reason: details.reason, says: message }).toEqual({ code, reason, says });
  expect(peakMib() - before).toBeLessThan(MOST_MIB);
});

const peakOf = (): number => {
  forgetPeak();
  return peakMib();
};

test.each([
  ['packedBytes', 100, 'packed_size'],
  ['unpackedBytes', 3071, 'unpacked_size'],
  ['files', 2, 'too_many_files'],
  ['manifestBytes', 100, 'manifest_size'],
] as const)("a caller's own limit of %s holds", async (limit, value, reason) => {
  await expect(readBundle(bundleOf(entriesOf()), { [limit]: value })).rejects.toMatchObject({
    code: 'artifacts.bundle_limit',
    details: { reason },
  });
});
