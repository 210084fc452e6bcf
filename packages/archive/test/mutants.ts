import { MANIFEST_FILE } from '@aegis/protocol/artifacts/manifest';
import { canonicalJson } from '../src/bundle/canonical-json.ts';
import { type Entry, entriesOf, FILES, goodManifest, squeeze, tarOf, withChecksum } from './bundle-forge.ts';

/** Damaged and forged bundles without end, the same ones for the same seed: bytes of the frame, of the tar below it, of the manifest
 *  within, and things that are well-formed and wrong. */

export interface Chance {
  below: (most: number) => number;
  pick: <T>(items: readonly T[]) => T;
}
/** Numerical Recipes' linear congruence: enough to vary, and the same everywhere. */
export const chanceOf = (seed: number): Chance => {
  let state = seed >>> 0;
  const below = (most: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * most);
  };
  return { below, pick: (items) => items[below(items.length)] as (typeof items)[number] };
};

type Mutate = (bytes: Buffer, chance: Chance) => Buffer;

const WEIRD_BYTES = [0, 1, 0x20, 0x2e, 0x2f, 0x30, 0x37, 0x7f, 0x80, 0xff];
const BYTES: readonly Mutate[] = [
  (bytes, { below }) => flip(bytes, below(bytes.length), 1 << below(8)),
  (bytes, { below, pick }) => set(bytes, below(bytes.length), pick(WEIRD_BYTES)),
  (bytes, { below, pick }) => set(bytes, below(Math.min(20, bytes.length)), pick(WEIRD_BYTES)),
  (bytes, { below }) => bytes.subarray(0, below(bytes.length)),
  (bytes, { below }) => bytes.subarray(below(bytes.length)),
  (bytes, { below }) => cut(bytes, below(bytes.length), 1 + below(16)),
  (bytes, { below }) => insert(bytes, below(bytes.length), Buffer.alloc(1 + below(16), below(256))),
  (bytes, { below }) => {
    const from = below(bytes.length);
    return insert(bytes, below(bytes.length), bytes.subarray(from, from + 1 + below(64)));
  },
  (bytes, { below }) => {
    const copy = Buffer.from(bytes);
    const from = below(copy.length);
    copy.copy(copy, below(copy.length), from, from + below(64));
    return copy;
  },
  (bytes) => Buffer.concat([bytes, bytes]),
];
const set = (bytes: Buffer, at: number, value: number): Buffer => {
  const copy = Buffer.from(bytes);
  if (at < copy.length) copy[at] = value;
  return copy;
};
const flip = (bytes: Buffer, at: number, bits: number): Buffer => set(bytes, at, (bytes[at] ?? 0) ^ bits);
const cut = (bytes: Buffer, at: number, count: number): Buffer =>
  Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + count)]);
const insert = (bytes: Buffer, at: number, more: Buffer): Buffer =>
  Buffer.concat([bytes.subarray(0, at), more, bytes.subarray(at)]);
const several = (bytes: Buffer, chance: Chance): Buffer => {
  let mutant = bytes;
  for (let left = 1 + chance.below(3); left > 0; left--) mutant = chance.pick(BYTES)(mutant, chance);
  return mutant;
};

/** Offsets of ustar's fields. */
const FIELDS = [0, 100, 108, 116, 124, 136, 156, 157, 257, 265, 297, 329, 337, 345, 500];
const WEIRD_FIELDS = [
  '../evil',
  '/etc/passwd',
  '\x80\0\0\0',
  '77777777777',
  '1',
  '2',
  '5',
  'x',
  'L',
  ' ',
  '0000755',
  'ustar  ',
];
const NAMES = ['a.o', 'A.o', 'b.o', 'manifest.json', 'c.o', '../a.o', '/a.o', 'folder/a.o', '', 'a'.repeat(100)];
type MutateEntries = (entries: Entry[], chance: Chance) => Entry[];
const ENTRIES: readonly MutateEntries[] = [
  (entries, { below }) => entries.toSpliced(below(entries.length), 1),
  (entries, { below, pick }) => entries.toSpliced(below(entries.length), 0, pick(entries)),
  (entries, { below, pick }) => {
    const [one] = entries.splice(below(entries.length), 1);
    return one
      ? entries.toSpliced(below(entries.length + 1), 0, { ...one, name: pick([one.name, ...NAMES]) })
      : entries;
  },
  (entries, chance) => changed(entries, chance, (entry) => ({ ...entry, name: chance.pick(NAMES) })),
  (entries, chance) =>
    changed(entries, chance, (entry) => ({ ...entry, bytes: several(Buffer.from(entry.bytes), chance) })),
  (entries, chance) => changed(entries, chance, (entry) => ({ ...entry, padding: several(Buffer.alloc(512), chance) })),
  (entries, chance) => {
    const at = chance.pick(FIELDS);
    const value = chance.pick(WEIRD_FIELDS);
    return changed(entries, chance, (entry) => ({ ...entry, header: (block) => block.write(value, at, 'latin1') }));
  },
  (entries, chance) => {
    const at = chance.below(512);
    const bits = 1 << chance.below(8);
    return changed(entries, chance, (entry) => ({
      ...entry,
      header: (block) => {
        block[at] = (block[at] ?? 0) ^ bits;
      },
    }));
  },
];
const changed = (entries: Entry[], { below }: Chance, change: (entry: Entry) => Entry): Entry[] => {
  const at = below(entries.length);
  return entries.map((entry, index) => (index === at ? change(entry) : entry));
};

const VALUES: readonly unknown[] = [
  null,
  true,
  -1,
  0,
  1e308,
  2 ** 53,
  '',
  '../..',
  '/etc/shadow',
  '\u2028/../',
  '\u001b[2J',
  'x'.repeat(5000),
  [],
  {},
  [[]],
  { kind: 'xdp', interface: 'eth0' },
  { kind: 'kprobe', symbol: 'x' },
  Array.from({ length: 300 }, () => 'a'),
];
/** Some member of some object or list within, otherwise or gone. */
const mutateValue = (value: unknown, chance: Chance, depth = 0): unknown => {
  if (typeof value !== 'object' || value === null || depth > 6 || chance.below(6) === 0) return chance.pick(VALUES);
  const members: [string, unknown][] = Object.entries(value);
  const at = chance.below(members.length + 1);
  const member = members[at];
  if (!member) members.push([chance.pick(['extra', '0', 'name', 'kind', 'toString']), chance.pick(VALUES)]);
  else if (chance.below(5) === 0) members.splice(at, 1);
  else members[at] = [member[0], mutateValue(member[1], chance, depth + 1)];
  return Array.isArray(value) ? members.map(([, item]) => item) : Object.fromEntries(members);
};

export type MutantKind = 'frame' | 'tar' | 'entries' | 'manifest' | 'manifest text';
const goodTar = tarOf(entriesOf());
const goodBundle = squeeze(goodTar);

/** Damage to the compressed bytes of any bundle. */
export const damaged = several;

export const mutantOf = (chance: Chance): { kind: MutantKind; bytes: Buffer } => {
  const kind = chance.pick<MutantKind>(['frame', 'frame', 'tar', 'entries', 'entries', 'manifest', 'manifest text']);
  switch (kind) {
    case 'frame':
      return { kind, bytes: several(goodBundle, chance) };
    case 'tar':
      return { kind, bytes: squeeze(rightChecksums(wholeBlocks(several(goodTar, chance), chance), chance)) };
    case 'entries':
      return { kind, bytes: squeeze(tarOf(chance.pick(ENTRIES)(entriesOf(), chance))) };
    case 'manifest':
      return { kind, bytes: withManifestBytes(Buffer.from(canonicalJson(mutateValue(goodManifest(), chance)))) };
    case 'manifest text':
      return { kind, bytes: withManifestBytes(several(Buffer.from(canonicalJson(goodManifest())), chance)) };
  }
};
const withManifestBytes = (bytes: Buffer): Buffer =>
  squeeze(tarOf([{ name: MANIFEST_FILE, bytes }, ...[...FILES].map(([name, content]) => ({ name, bytes: content }))]));
const wholeBlocks = (tar: Buffer, { below }: Chance): Buffer =>
  below(4) > 0 ? Buffer.concat([tar, Buffer.alloc((512 - (tar.length % 512)) % 512)]) : tar;
/** Now and then, so that what is behind the checksum is looked at too. */
const rightChecksums = (tar: Buffer, { below }: Chance): Buffer => {
  const copy = Buffer.from(tar);
  for (let at = 0; at + 512 <= copy.length; at += 512)
    if (copy.toString('latin1', at + 257, at + 262) === 'ustar' && below(3) > 0)
      withChecksum(copy.subarray(at, at + 512));
  return copy;
};
