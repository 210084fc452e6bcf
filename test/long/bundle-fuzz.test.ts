import { completeManifest, packBundle } from '@aegis/archive/bundle/pack';
import { expect, test } from 'vitest';
import { chanceOf, damaged, mutantOf } from '../../packages/archive/test/mutants.ts';
import { outcomeOf } from '../../packages/archive/test/outcome.ts';

/** Damaged and forged bundles (AEGIS_BUNDLE_FUZZ of each kind, AEGIS_SEED to repeat a run): the reader refuses them by name, or what it
 *  reads has a bundle's one form; it neither crashes nor grows. */

const COUNT = Number(process.env.AEGIS_BUNDLE_FUZZ ?? 200_000);
const SEED = Number(process.env.AEGIS_SEED ?? 1);
const PART = 10_000;
const MOST_MIB = 300;

const run = async (next: () => Buffer, count: number): Promise<Record<string, number>> => {
  const outcomes: Record<string, number> = {};
  const before = process.memoryUsage().rss;
  for (let done = 0; done < count; done++) {
    const outcome = String(await outcomeOf(next()));
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    if (done % PART === 0) expect((process.memoryUsage().rss - before) / 2 ** 20).toBeLessThan(MOST_MIB);
  }
  return outcomes;
};

test(`${COUNT} mutants of a small bundle`, async () => {
  const chance = chanceOf(SEED);
  const outcomes = await run(() => mutantOf(chance).bytes, COUNT);
  console.log(`seed ${SEED}: ${JSON.stringify(outcomes)}`);
  expect(Object.keys(outcomes).length).toBeGreaterThan(30);
}, 3_600_000);

test(`${COUNT / 10} times damage to the frame of a bundle of 300 kB`, async () => {
  const chance = chanceOf(SEED);
  // Part of it repeats, part does not: literals, sequences and tables of every kind.
  const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, at) => (at % 3 ? at % 251 : chance.below(97))));
  const files = new Map([['a.o', bytes]]);
  const manifest = completeManifest(
    {
      format: 'aegis-artifact-1',
      name: 'large',
      version: '1.0.0',
      description: '',
      type: 'program',
      architecture: 'any',
      kernel_version: '5.15',
      features: [],
      tags: [],
      metadata: {},
      objects: [{ file: 'a.o', kind: 'object' }],
      programs: [{ name: 'p', attach: { kind: 'xdp', interface: 'eth0', mode: 'auto' } }],
      constants: [],
      maps: [],
    },
    files,
  );
  const packed = await packBundle({ manifest, files });
  const outcomes = await run(() => damaged(packed, chance), COUNT / 10);
  console.log(`${packed.length} bytes packed, seed ${SEED}: ${JSON.stringify(outcomes)}`);
  expect(outcomes.zstd_corrupt).toBeGreaterThan(0);
}, 3_600_000);
