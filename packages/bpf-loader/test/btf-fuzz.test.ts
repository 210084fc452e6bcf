import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Btf, BtfError, parseBtf } from '../src/btf.ts';
import { recordType } from '../src/ring-records.ts';
import { decode, encode, ValueError } from '../src/values.ts';
import { btfBytes } from './programs.ts';

/** Real BTF with bytes changed, words replaced by telling ones, and the end cut off. */
const sources = ['map_hashes', 'globals', 'ring_events', 'loops_and_timers', 'attach_sock_addr'];
const telling = [0, 1, 2, 31, 32, 0x7f, 0xff, 0xffff, 0xffffff, 0x7fffffff, 0x80000000, 0xffffffff];

type Change = { at: number; word: number } | { at: number; byte: number };
const change: fc.Arbitrary<Change> = fc.oneof(
  fc.record({ at: fc.nat(1 << 20), byte: fc.integer({ min: 0, max: 255 }) }),
  fc.record({ at: fc.nat(1 << 20), word: fc.oneof(fc.constantFrom(...telling), fc.nat(60), fc.nat(60)) }),
);

const mutate = (bytes: Uint8Array, changes: readonly Change[], cut: number): Uint8Array => {
  const mutant = Uint8Array.from(bytes);
  const view = new DataView(mutant.buffer);
  // Every second one falls on the header or the first types, where it does most.
  for (const [index, one] of changes.entries()) {
    const within = index % 2 === 0 ? mutant.length : Math.min(mutant.length, 600);
    const place = one.at % within;
    if ('byte' in one) mutant[place] = one.byte;
    else view.setUint32(Math.min(mutant.length - 4, place & ~3), one.word, true);
  }
  return cut > 0 ? mutant.subarray(0, mutant.length - (cut % mutant.length)) : mutant;
};

/** The value of a call, or null after an error of the given kinds: any other one fails the test. */
const or = <T>(call: () => T, ...allowed: (typeof BtfError | typeof ValueError)[]): T | null => {
  try {
    return call();
  } catch (error) {
    if (allowed.some((kind) => error instanceof kind)) return null;
    throw error;
  }
};

const exercise = (btf: Btf, memory: Uint8Array): void => {
  for (let id = 0; id < btf.typeCount; id += 1) {
    or(() => btf.type(id), BtfError);
    or(() => btf.describe(id), BtfError);
    const size = or(() => btf.sizeOf(id), BtfError);
    const value = size !== null && size <= memory.length ? or(() => decode(btf, id, memory), BtfError) : null;
    if (value === null) continue;
    JSON.stringify(value);
    or(() => encode(btf, id, value), BtfError, ValueError);
  }
  or(() => btf.variables(), BtfError);
  or(() => btf.typeByName('struct flow'), BtfError);
  or(() => recordType(btf, 'events'), BtfError);
};

const originals = new Map(sources.map((name) => [name, btfBytes(name)]));

test('mutated BTF throws nothing but BtfError, and ends', () => {
  const memory = Uint8Array.from({ length: 4096 }, (_, at) => (at * 37) & 0xff);
  let parsed = 0;
  fc.assert(
    fc.property(
      fc.constantFrom(...sources),
      fc.array(change, { minLength: 1, maxLength: 3 }),
      fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(5000) }),
      (source, changes, cut) => {
        const bytes = originals.get(source) ?? Buffer.alloc(0);
        const btf = or(() => parseBtf(mutate(bytes, changes, cut)), BtfError);
        if (!btf) return;
        parsed += 1;
        exercise(btf, memory);
      },
    ),
    { numRuns: process.env.AEGIS_LONG ? 20_000 : 400 },
  );
  // Most mutants must get past the parser, or the rest is not tested.
  expect(parsed).toBeGreaterThan(100);
});

test('bytes that were never BTF are refused', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      const dressed = Uint8Array.from([0x9f, 0xeb, 1, 0, ...bytes]);
      or(() => parseBtf(bytes), BtfError);
      or(() => parseBtf(dressed), BtfError);
    }),
  );
});
