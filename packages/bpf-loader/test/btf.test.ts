import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { BtfError, parseBtf } from '../src/btf.ts';
import { decode } from '../src/values.ts';
import { array, int, pointer, rawBtf, struct, typedef } from './btf-writer.ts';
import { btfBytes } from './programs.ts';

test('types of a compiled program are found by name, sized and described', () => {
  const btf = parseBtf(btfBytes('map_hashes'));
  const flow = btf.typeByName('struct flow') ?? 0;
  expect(btf.typeByName('flow')).toBe(flow);
  expect(btf.typeByName('union flow')).toBeNull();
  expect(btf.typeByName('nothing')).toBeNull();
  expect(btf.sizeOf(flow)).toBe(12);
  const type = btf.type(flow);
  if (type.kind !== 'struct') throw new Error('no struct');
  expect(type.members.map(({ name, typeId, bitOffset }) => [name, btf.describe(typeId), bitOffset])).toEqual([
    ['source', '__be32', 0],
    ['target', '__be32', 32],
    ['protocol', '__u8', 64],
    ['padding', '__u8[3]', 72],
  ]);
  expect(btf.littleEndian).toBe(true);
});

test('globals are listed by section; those of libbpf itself are not among them', () => {
  const sections: Record<string, string[]> = {};
  for (const { name, section } of parseBtf(btfBytes('globals')).variables())
    sections[section] = [...(sections[section] ?? []), name].sort();
  expect(sections).toEqual({
    '.bss': ['seen'],
    '.data': ['calls'],
    '.rodata': ['address', 'address6', 'enabled', 'label', 'limits', 'mode', 'small', 'table', 'wide'],
    '.rodata.tuning': ['placed'],
  });
});

test('declaration tags are read', () => {
  const btf = parseBtf(btfBytes('ring_events'));
  expect(btf.tagsOf(btf.variableByName('events') ?? 0)).toEqual(['record:struct packet_event']);
  expect(btf.tagsOf(btf.variableByName('raw') ?? 0)).toEqual([]);
});

test("the kernel's own BTF parses, and its types have the sizes that it says", () => {
  const btf = parseBtf(readFileSync('/sys/kernel/btf/vmlinux'));
  expect(btf.typeCount).toBeGreaterThan(10_000);
  for (const name of ['struct task_struct', 'struct sk_buff', 'union bpf_attr', 'enum bpf_prog_type', '__u64']) {
    const id = btf.typeByName(name);
    expect(id, name).not.toBeNull();
    expect(btf.sizeOf(id ?? 0)).toBeGreaterThan(0);
  }
  const type = btf.type(btf.typeByName('enum bpf_prog_type') ?? 0);
  if (type.kind !== 'enum') throw new Error('no enum');
  expect(type.values.find(({ name }) => name === 'BPF_PROG_TYPE_XDP')?.value).toBe(6n);
});

test('BTF of the other byte order is read, values too', () => {
  const types = [
    int('unsigned int', 4),
    struct('pair', 8, [
      ['a', 1, 0],
      ['b', 1, 32],
    ]),
    struct(
      'bits',
      4,
      [
        ['high', 1, 4 * 2 ** 24],
        ['low', 1, 28 * 2 ** 24 + 4],
      ],
      true,
    ),
  ];
  const btf = parseBtf(rawBtf(types, { bigEndian: true }));
  expect(btf.littleEndian).toBe(false);
  expect(decode(btf, 2, Uint8Array.of(0, 0, 1, 2, 0, 0, 0, 3))).toEqual({ a: 258, b: 3 });
  expect(decode(btf, 3, Uint8Array.of(0xa0, 0, 0, 1))).toEqual({ high: 10, low: 1 });
});

test('a longer header of later kernels is read, and kinds that its layout describes are passed over', () => {
  const types = [int('int', 4, 1), { kind: 31, count: 2, tail: [1, 2, 3, 4, 5] }, typedef('number', 1)];
  // One entry for each kind: 31 has 4 bytes by itself and 8 for each element.
  const layout = new Uint8Array(32 * 4);
  layout.set([4, 8, 0, 0], 31 * 4);
  const btf = parseBtf(rawBtf(types, { layout }));
  expect(btf.typeCount).toBe(4);
  expect(btf.type(2)).toEqual({ kind: 'unknown', number: 31 });
  expect(btf.resolve(btf.typeByName('number') ?? 0).type).toMatchObject({ kind: 'int', name: 'int', signed: true });
  expect(() => parseBtf(rawBtf(types))).toThrow(new BtfError('kind 31 of BTF is not known'));
  expect(parseBtf(rawBtf([int('int', 4, 1)], { moreHeader: [0, 0, 7, 7, 7] })).typeCount).toBe(2);
});

const good = () => rawBtf([int('int', 4, 1)]);
const with32 = (place: number, value: number): Uint8Array => {
  const bytes = good();
  new DataView(bytes.buffer).setUint32(place, value, true);
  return bytes;
};
const lies: [what: string, bytes: () => Uint8Array, sentence: string][] = [
  ['nothing at all', () => new Uint8Array(), 'BTF of 0 bytes is shorter than its header'],
  ['another magic', () => with32(0, 0x464c457f), 'it does not begin with the magic of BTF'],
  ['another version', () => with32(0, 0x0002eb9f), 'version 2 of BTF is not known'],
  ['a header beyond the end', () => with32(4, 4000), 'a header of 4000 bytes in 45'],
  ['a header too short', () => with32(4, 8), 'a header of 8 bytes in 45'],
  ['types beyond the end', () => with32(12, 4000), 'the types end at 4024, beyond the 45 bytes there are'],
  ['strings beyond the end', () => with32(20, 4000), 'the strings end at 4040, beyond the 45 bytes there are'],
  ['no strings', () => with32(20, 0), 'the strings do not begin and end with a zero'],
  ['types cut off', () => with32(12, 13), 'type 1 is cut off'],
  ['a name beyond the strings', () => with32(24, 99), 'the name of type 1 lies beyond the strings'],
  ['a reference beyond the types', () => rawBtf([typedef('t', 7)]), 'type 1 refers to type 7 of 2'],
  ['an array of what is not there', () => rawBtf([array(9, 1)]), 'type 1 refers to type 9 of 2'],
  [
    'a member of a type that is not there',
    () => rawBtf([struct('s', 4, [['m', 5, 0]])]),
    'type 1 refers to type 5 of 2',
  ],
];
test.each(lies)('%s is refused', (_, bytes, sentence) => {
  expect(() => parseBtf(bytes())).toThrow(new BtfError(sentence));
});

test('types that go round in a circle end in an error, not in a loop', () => {
  const round = parseBtf(
    rawBtf([typedef('a', 2), typedef('b', 1), array(1, 2), array(3, 2), struct('s', 4, [['again', 5, 0]])]),
  );
  expect(() => round.resolve(1)).toThrow(new BtfError('type 1 refers on more than 32 times'));
  expect(() => round.sizeOf(1)).toThrow(BtfError);
  expect(round.describe(1)).toBe('a');
  expect(() => decode(round, 5, new Uint8Array(4))).toThrow(new BtfError('types are nested more than 32 deep'));
});

test('arrays of nothing, or of more than there can be, cost a bounded number of steps', () => {
  const empty = struct('empty', 0, []);
  const btf = parseBtf(
    rawBtf([empty, array(1, 0xffffffff), int('int', 4), array(3, 0xffffffff), pointer(3), array(5, 0)]),
  );
  expect(() => decode(btf, 2, new Uint8Array())).toThrow(new BtfError('more than 1000000 values'));
  expect(() => btf.sizeOf(4)).toThrow(new BtfError('type 4 is larger than 67108864 bytes'));
  expect(decode(btf, 6, new Uint8Array())).toEqual([]);
});

test('as many tags on one type as a blob holds are read once each', () => {
  const tags = Array.from({ length: 300_000 }, () => ({ kind: 17, name: 'tag', sizeOrType: 1, tail: [-1] }));
  expect(parseBtf(rawBtf([int('int', 4), ...tags])).tagsOf(1)).toHaveLength(300_000);
});
