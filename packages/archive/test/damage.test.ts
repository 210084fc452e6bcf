import { expect, test } from 'vitest';
import { packBundle } from '../src/bundle/pack.ts';
import { readBundle } from '../src/bundle/read.ts';
import { FILES, goodManifest, sha256 } from './bundle-forge.ts';
import { chanceOf, mutantOf } from './mutants.ts';
import { outcomeOf } from './outcome.ts';

/** Damage of every kind: refused by name, or a bundle in its one form. */

const MUTANTS = 10_000;
const MOST_MIB = 200;

test('a flipped bit at every byte: the digest differs, and what is still read is the same', async () => {
  const packed = await packBundle({ manifest: goodManifest(), files: FILES });
  const digest = sha256(packed);
  const good = await readBundle(packed);
  const outcomes: Record<string, number> = {};
  for (let at = 0; at < packed.length; at++)
    for (let bit = 0; bit < 8; bit++) {
      const flipped = Buffer.from(packed);
      flipped[at] = (flipped[at] ?? 0) ^ (1 << bit);
      expect(sha256(flipped)).not.toBe(digest);
      const outcome = await outcomeOf(flipped);
      outcomes[String(outcome)] = (outcomes[String(outcome)] ?? 0) + 1;
      if (outcome === null) expect(await readBundle(flipped)).toEqual(good);
    }
  expect(Object.keys(outcomes)).toContain('zstd_corrupt');
});

test('cut at every length', async () => {
  const packed = await packBundle({ manifest: goodManifest(), files: FILES });
  for (let length = 0; length < packed.length; length++)
    expect(await outcomeOf(packed.subarray(0, length))).toBe('truncated');
});

test(`${MUTANTS} mutants are refused by name, or are bundles`, async () => {
  const before = process.memoryUsage().rss;
  const chance = chanceOf(1);
  const outcomes: Record<string, Record<string, number>> = {};
  let most = before;
  for (let done = 0; done < MUTANTS; done++) {
    const { kind, bytes } = mutantOf(chance);
    const outcome = String(await outcomeOf(bytes));
    outcomes[kind] = { ...outcomes[kind], [outcome]: (outcomes[kind]?.[outcome] ?? 0) + 1 };
    if (done % 100 === 0) most = Math.max(most, process.memoryUsage().rss);
  }
  const reasons = new Set(Object.values(outcomes).flatMap((of) => Object.keys(of)));
  expect(reasons.size).toBeGreaterThan(30);
  expect((most - before) / 2 ** 20).toBeLessThan(MOST_MIB);
}, 120_000);
