import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BtfError, parseBtf } from '../src/btf.ts';
import { namedType, recordType, ringRecords } from '../src/ring-records.ts';
import { decode, encode, mapCodec, perCpu, type Value, ValueError, type WideIntegers } from '../src/values.ts';
import { array, int, pointer, type RawType, rawBtf, struct, typedef } from './btf-writer.ts';
import { btfBytes } from './programs.ts';

const SIGNED = 1;
const BOOL = 4;

/** The types that the tables below speak of, by number. */
const TYPES: RawType[] = [
  int('unsigned char', 1), // 1
  int('char', 1, SIGNED), // 2
  int('short', 2, SIGNED), // 3
  int('unsigned int', 4), // 4
  int('long long', 8, SIGNED), // 5
  int('unsigned long long', 8), // 6
  int('_Bool', 1, BOOL), // 7
  int('unsigned __int128', 16), // 8
  typedef('__u32', 4), // 9
  typedef('__be32', 9), // 10
  int('unsigned short', 2), // 11
  typedef('__be16', 11), // 12
  typedef('__be64', 6), // 13
  struct('in_addr', 4, [['s_addr', 10, 0]]), // 14
  array(1, 16), // 15: unsigned char[16]
  struct('in6_addr', 16, [['in6_u', 15, 0]]), // 16
  array(2, 8), // 17: char[8]
  array(1, 6), // 18: unsigned char[6]
  pointer(2), // 19
  { kind: 6, name: 'mode', sizeOrType: 4, count: 3, flag: true, tail: ['OFF', 0, 'ON', 1, 'BROKEN', 0xffffffff] }, // 20
  { kind: 19, name: 'wide', sizeOrType: 8, count: 2, tail: ['SMALL', 1, 0, 'LARGE', 0, 0x80000000] }, // 21
  { kind: 16, name: 'float', sizeOrType: 4 }, // 22
  { kind: 16, name: 'double', sizeOrType: 8 }, // 23
  array(9, 3), // 24: __u32[3]
  array(10, 4), // 25: __be32[4]
  { kind: 5, name: 'either', sizeOrType: 8, count: 2, tail: ['whole', 6, 0, 'half', 9, 0] }, // 26
  { kind: 7, name: 'hidden' }, // 27
  array(17, 2), // 28: char[2][8]
];
const btf = parseBtf(rawBtf(TYPES));

type Row = [what: string, typeId: number, bytes: string, value: Value];
const rows: Row[] = [
  ['an unsigned byte', 1, 'ff', 255],
  ['a char by itself', 2, 'ff', -1],
  ['a negative short', 3, 'feff', -2],
  ['an unsigned int', 4, 'ffffffff', 4294967295],
  ['a long that a number holds', 5, 'fbffffffffffffff', -5],
  ['a long that no number holds', 5, '0000000000000080', '-9223372036854775808'],
  ['the largest unsigned long', 6, 'ffffffffffffffff', '18446744073709551615'],
  ['the largest exact number', 6, 'ffffffffffff1f00', 9007199254740991],
  ['the first inexact one', 6, '0000000000002000', '9007199254740992'],
  ['a true _Bool', 7, '01', true],
  ['a false _Bool', 7, '00', false],
  ['128 bits', 8, '00000000000000000100000000000000', '18446744073709551616'],
  ['a __u32 through its typedef', 9, '01020304', 67305985],
  ['a __be32 as address', 10, 'c0000209', '192.0.2.9'],
  ['a __be16 as number in the host', 12, '1f90', 8080],
  ['a __be64', 13, '0000000000000102', 258],
  ['struct in_addr', 14, 'c6336401', '198.51.100.1'],
  ['struct in6_addr', 16, '20010db8000000000000000000000009', '2001:db8::9'],
  ['an IPv4-mapped address', 16, '00000000000000000000ffffc0000209', '::ffff:192.0.2.9'],
  ['no address', 16, '00000000000000000000000000000000', '::'],
  ['text', 17, '7665746800000000', 'veth'],
  ['text without its zero', 17, '6162636465666768', 'abcdefgh'],
  ['no text', 17, '0000000000000000', ''],
  ['what is no UTF-8', 17, 'ff00000000000000', [-1, 0, 0, 0, 0, 0, 0, 0]],
  ['bytes', 18, '02005e100001', '0x02005e100001'],
  [
    'sixteen bytes without a telling name',
    15,
    '000102030405060708090a0b0c0d0e0f',
    '0x000102030405060708090a0b0c0d0e0f',
  ],
  ['a pointer', 19, '00000000a0ffff00', '0xffffa000000000'],
  ['an enum by name', 20, '01000000', 'ON'],
  ['a negative enum by name', 20, 'ffffffff', 'BROKEN'],
  ['an enum without a name for it', 20, '07000000', 7],
  ['a 64-bit enum by name', 21, '0000000000000080', 'LARGE'],
  ['a 64-bit enum without one', 21, '0000000000000040', '4611686018427387904'],
  ['a float', 22, '0000c03f', 1.5],
  ['a double', 23, '000000000000f83f', 1.5],
  ['no number', 23, '000000000000f87f', 'NaN'],
  ['an array', 24, '010000000200000003000000', [1, 2, 3]],
  ['an array of addresses', 25, 'c0000201c0000202c000020300000000', ['192.0.2.1', '192.0.2.2', '192.0.2.3', '0.0.0.0']],
  ['a union', 26, '0200000001000000', { whole: 4294967298, half: 2 }],
  ['an array of texts', 28, '61000000000000006263000000000000', ['a', 'bc']],
];

test.each(rows)('%s is decoded, and encoded to the same bytes', (_, typeId, hex, value) => {
  const bytes = Uint8Array.from(Buffer.from(hex, 'hex'));
  const decoded = decode(btf, typeId, bytes);
  expect(decoded).toEqual(value);
  expect(JSON.parse(JSON.stringify(decoded))).toEqual(value);
  expect(Buffer.from(encode(btf, typeId, decoded)).toString('hex')).toBe(hex);
});

test.each<[WideIntegers, Value, Value]>([
  ['auto', 5, '18446744073709551615'],
  ['text', '5', '18446744073709551615'],
  ['bigint', 5n, 18446744073709551615n],
])('wide integers as %s', (wideIntegers, small, large) => {
  const five = Uint8Array.of(5, 0, 0, 0, 0, 0, 0, 0);
  expect(decode(btf, 6, five, { wideIntegers })).toBe(small);
  expect(decode(btf, 6, new Uint8Array(8).fill(255), { wideIntegers })).toBe(large);
  expect(encode(btf, 6, small)).toEqual(five);
  expect(decode(btf, 4, five, { wideIntegers })).toBe(5);
});

test('a record with everything, as a compiler laid it out', () => {
  const ring = parseBtf(btfBytes('ring_events'));
  const id = namedType(ring, 'struct packet_event');
  const event = {
    number: 7,
    source: '192.0.2.1',
    target: '192.0.2.2',
    port: 53,
    protocol: 17,
    fragment: false,
    direction: 'INWARDS',
    mac: '02:00:5e:10:00:01',
    label: 'veth',
  };
  const bytes = encode(ring, id, event);
  expect(bytes.length).toBe(ring.sizeOf(id));
  expect(decode(ring, id, bytes)).toEqual(event);
  // What is left out is zero.
  expect(decode(ring, id, encode(ring, id, { number: 7 }))).toEqual({
    number: 7,
    source: '0.0.0.0',
    target: '0.0.0.0',
    port: 0,
    protocol: 0,
    fragment: false,
    direction: 0,
    mac: '00:00:00:00:00:00',
    label: '',
  });
});

test('unnamed structs and unions count as members of the outer one; bit-fields of both kinds are read', () => {
  const types: RawType[] = [
    int('unsigned int', 4), // 1
    int('signed char', 1, SIGNED), // 2
    { kind: 5, sizeOrType: 4, count: 2, tail: ['word', 1, 0, '', 4, 0] }, // 3: union { word; struct 4 }
    struct('', 4, [
      ['low', 2, 0],
      ['high', 2, 24],
    ]), // 4
    struct(
      'outer',
      12,
      [
        ['', 3, 0],
        ['three', 1, (3 << 24) | 32],
        ['', 1, (2 << 24) | 35],
        ['rest', 1, (27 << 24) | 37],
        ['nested', 4, 64],
      ],
      true,
    ), // 5
    int('old', 4, 0, 5), // 6: an integer of five bits
    struct('old_style', 4, [
      ['first', 6, 0],
      ['second', 6, 5],
    ]), // 7
  ];
  const own = parseBtf(rawBtf(types));
  const bytes = Uint8Array.of(1, 0, 0, 0xff, 0b10100101, 0, 0, 0x80, 5, 0, 0, 6);
  const value = { word: 0xff000001, low: 1, high: -1, three: 5, rest: 67108869, nested: { low: 5, high: 6 } };
  expect(decode(own, 5, bytes)).toEqual(value);
  expect(encode(own, 5, { ...value, rest: 67108869 })).toEqual(
    Uint8Array.of(1, 0, 0, 0xff, 0b10100101, 0, 0, 0x80, 5, 0, 0, 6),
  );
  expect(decode(own, 7, Uint8Array.of(0b11100011, 1, 0, 0))).toEqual({ first: 3, second: 15 });
  expect(encode(own, 7, { first: 3, second: 15 })).toEqual(Uint8Array.of(0b11100011, 1, 0, 0));
});

test('a whole section of globals is decoded by the names of its variables', () => {
  const globals = parseBtf(btfBytes('globals'));
  const seen = globals.variables().find(({ name }) => name === 'seen')?.typeId ?? 0;
  const value = {
    small: 200,
    wide: '-9223372036854775807',
    enabled: true,
    mode: 'MODE_AUTO',
    label: 'näher',
    limits: { low: 1, high: 65535, nested: { bias: -3, strict: true } },
    address: '192.0.2.9',
    address6: '2001:db8::1',
    sum: 10,
    placed: 7,
  };
  expect(decode(globals, seen, encode(globals, seen, value))).toEqual(value);
});

test('a flexible array at the end takes what is left of the bytes', () => {
  const own = parseBtf(
    rawBtf([
      int('unsigned short', 2),
      array(1, 0),
      struct('list', 2, [
        ['count', 1, 0],
        ['items', 2, 16],
      ]),
    ]),
  );
  expect(decode(own, 3, Uint8Array.of(2, 0, 7, 0, 8, 0, 9))).toEqual({ count: 2, items: [7, 8] });
  expect(decode(own, 3, Uint8Array.of(0, 0))).toEqual({ count: 0, items: [] });
});

const inet6 = 16;
const refusals: [what: string, typeId: number, value: unknown, sentence: string][] = [
  ['text for a number', 4, 'many', "the value: expected a whole number from 0 to 4294967295, got 'many'"],
  ['a number too large', 1, 256, 'the value: expected a whole number from 0 to 255, got 256'],
  ['a negative number', 4, -1, 'the value: expected a whole number from 0 to 4294967295, got -1'],
  ['a fraction', 4, 1.5, 'the value: expected a whole number from 0 to 4294967295, got 1.5'],
  [
    'an inexact number',
    6,
    2 ** 53,
    'the value: expected a whole number from 0 to 18446744073709551615, got 9007199254740992',
  ],
  ['a number for an address', 10, 5, 'the value: expected an IPv4 address such as 192.0.2.9, got 5'],
  ['half an address', 14, '192.0.2', "the value: expected an IPv4 address such as 192.0.2.9, got '192.0.2'"],
  [
    'an IPv4 address for IPv6',
    inet6,
    '192.0.2.1',
    "the value: expected an IPv6 address such as 2001:db8::9, got '192.0.2.1'",
  ],
  [
    'an address with a zone',
    inet6,
    'fe80::1%lo',
    "the value: expected an IPv6 address such as 2001:db8::9, got 'fe80::1%lo'",
  ],
  ['a number for a boolean', 7, 2, 'the value: expected true or false, got 2'],
  ['an unknown enumerator', 20, 'MAYBE', "the value: expected one of OFF, ON, BROKEN, got 'MAYBE'"],
  ['text too long', 17, 'nine char', 'the value: expected text of at most 8 bytes, got 9 bytes'],
  ['too many elements', 24, [1, 2, 3, 4], 'the value: expected at most 3 elements, got 4'],
  ['a wrong element', 24, [1, 'x'], "[1]: expected a whole number from 0 to 4294967295, got 'x'"],
  ['an object for an array', 24, {}, 'the value: expected an array of at most 3 elements, got an object'],
  [
    'too many bytes',
    18,
    '0x00112233445566',
    "the value: expected at most 6 bytes in hex (0x…) or as an array, got '0x00112233445566'",
  ],
  ['odd hex', 18, '0x1', "the value: expected at most 6 bytes in hex (0x…) or as an array, got '0x1'"],
  ['an array for a union', 26, [], 'the value: expected an object with the members whole, half, got an array of 0'],
  ['a member that is not there', 26, { hole: 1 }, 'hole: expected one of the members whole, half, got an unknown one'],
  [
    'two members that contradict',
    26,
    { whole: 1, half: 2 },
    'half: expected what agrees with the other members of its union, got other bytes',
  ],
  ['null', 4, null, 'the value: expected a whole number from 0 to 4294967295, got null'],
  ['text for a float', 22, 'x', "the value: expected a number, got 'x'"],
];
test.each(refusals)('%s is refused by path and expectation', (_, typeId, value, sentence) => {
  expect(() => encode(btf, typeId, value)).toThrow(ValueError);
  expect(() => encode(btf, typeId, value)).toThrow(sentence);
});

test('a wrong value deep inside is named by its path', () => {
  const globals = parseBtf(btfBytes('globals'));
  const seen = globals.variables().find(({ name }) => name === 'seen')?.typeId ?? 0;
  const refused = (value: unknown) => () => encode(globals, seen, value);
  expect(refused({ limits: { nested: { bias: 200 } } })).toThrow(
    'limits.nested.bias: expected a whole number from -128 to 127, got 200',
  );
  expect(refused({ limits: { middle: 1 } })).toThrow(
    'limits.middle: expected one of the members low, high, nested, got an unknown one',
  );
});

test('names that mean something to JavaScript are only names', () => {
  const own = parseBtf(
    rawBtf([
      int('unsigned char', 1),
      struct('s', 2, [
        ['__proto__', 1, 0],
        ['constructor', 1, 8],
      ]),
    ]),
  );
  const value = decode(own, 2, Uint8Array.of(1, 2));
  expect(Object.entries(value as object)).toEqual([
    ['__proto__', 1],
    ['constructor', 2],
  ]);
  expect(encode(own, 2, value)).toEqual(Uint8Array.of(1, 2));
  expect(() => encode(btf, 26, { toString: 1 })).toThrow(
    'toString: expected one of the members whole, half, got an unknown one',
  );
});

test('what has no contents, or too few bytes, is a BtfError', () => {
  expect(() => decode(btf, 27, new Uint8Array(8))).toThrow(new BtfError('type 27 (struct hidden) has no size'));
  expect(() => decode(btf, 4, new Uint8Array(3))).toThrow(new BtfError('unsigned int takes 4 bytes, and there are 3'));
  expect(() => decode(btf, 999, new Uint8Array(8))).toThrow(new BtfError('there is no type 999'));
});

test('a per-CPU value is one value for each CPU', () => {
  // Four bytes each, rounded up to eight.
  const bytes = Uint8Array.of(1, 0, 0, 0, 9, 9, 9, 9, 2, 0, 0, 0, 9, 9, 9, 9);
  expect(perCpu(bytes, 4, (one) => decode(btf, 4, one))).toEqual([1, 2]);
  const codec = mapCodec({ type: 'percpu_array', keySize: 4, valueSize: 4, btfKeyTypeId: 9, btfValueTypeId: 4 }, btf);
  expect(codec.key(Uint8Array.of(3, 0, 0, 0))).toBe(3);
  expect(codec.value(bytes)).toEqual([1, 2]);
  expect([codec.keyType, codec.valueType]).toEqual(['__u32', 'unsigned int']);
});

test('maps without BTF are hex, but for positions and ids', () => {
  const hash = mapCodec({ type: 'hash', keySize: 2, valueSize: 4, btfKeyTypeId: 0, btfValueTypeId: 0 }, null);
  expect(hash.key(Uint8Array.of(1, 2))).toBe('0x0102');
  expect(hash.value(Uint8Array.of(1, 2, 3, 4))).toBe('0x01020304');
  expect(hash.keyBytes('0x0102')).toEqual(Uint8Array.of(1, 2));
  expect(() => hash.keyBytes('0x010203')).toThrow('2 bytes in hex');
  expect(() => hash.valueBytes(5)).toThrow('4 bytes in hex');
  const programs = mapCodec({ type: 'prog_array', keySize: 4, valueSize: 4, btfKeyTypeId: 0, btfValueTypeId: 0 }, null);
  expect(programs.key(Uint8Array.of(1, 0, 0, 0))).toBe(1);
  expect(programs.value(Uint8Array.of(77, 0, 0, 0))).toBe(77);
  expect(programs.keyBytes(258)).toEqual(Uint8Array.of(2, 1, 0, 0));
  expect([programs.keyType, programs.valueType]).toEqual([null, null]);
});

test("a ring buffer's record type comes from its tag, else from its name, else the records are hex", () => {
  const ring = parseBtf(btfBytes('ring_events'));
  const id = recordType(ring, 'events');
  expect(ring.describe(id ?? 0)).toBe('struct packet_event');
  expect(recordType(ring, 'raw')).toBeNull();
  // By name: `packet_events` and `packet_event` are the struct's; neither needs a tag.
  expect(recordType(ring, 'packet_events')).toBe(id);
  expect(recordType(ring, 'packet')).toBe(id);
  expect(() => namedType(ring, 'struct nothing')).toThrow(new BtfError("there is no type 'struct nothing'"));
  const records = ringRecords(ring, id);
  const bytes = encode(ring, id ?? 0, { number: 3, label: 'x' });
  expect(records(bytes)).toMatchObject({ number: 3, label: 'x' });
  expect(records(Uint8Array.of(1, 2))).toBe('0x0102');
  expect(ringRecords(null, null)(Uint8Array.of(1, 2))).toBe('0x0102');
});

const REAL = ['ring_events', 'map_hashes', 'globals', 'map_lpm_trie', 'loops_and_timers'].map((name) =>
  parseBtf(btfBytes(name)),
);

test('whatever bytes a real type holds, its value is encoded to bytes of the same value', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...REAL),
      fc.nat(),
      fc.uint8Array({ minLength: 64, maxLength: 64 }),
      (own, pick, bytes) => {
        const typeId = 1 + (pick % (own.typeCount - 1));
        const sized = ['int', 'enum', 'struct', 'union', 'array', 'pointer'].includes(own.resolve(typeId).type.kind);
        if (!sized || own.sizeOf(typeId) > bytes.length) return;
        const value = decode(own, typeId, bytes.subarray(0, own.sizeOf(typeId)));
        expect(decode(own, typeId, encode(own, typeId, value))).toEqual(value);
      },
    ),
    { numRuns: 2000 },
  );
});
