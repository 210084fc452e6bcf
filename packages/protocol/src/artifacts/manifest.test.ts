import { expect, test } from 'vitest';
import { validate } from '../validation.ts';
import { compareKernelVersions, Manifest } from './manifest.ts';

const OBJECT = { file: 'a.o', sha256: '0'.repeat(64), size: 1, kind: 'object' };
const XDP = { kind: 'xdp', interface: 'eth0' };
const GOOD = {
  format: 'aegis-artifact-1',
  name: 'block-icmp',
  version: '1.0.0',
  objects: [OBJECT],
  programs: [{ name: 'block', attach: XDP }],
};
const faultOf = (fields: Record<string, unknown>): string | null => {
  const checked = validate(Manifest, { ...GOOD, ...fields }, 'manifest');
  return checked.ok ? null : `${checked.refusal.field}: ${checked.refusal.reason}`;
};
const TWO = { objects: [OBJECT, { ...OBJECT, file: 'b.o' }] };
const TWO_WITH = (more: Record<string, unknown>) => ({
  ...TWO,
  programs: [{ name: 'block', object: 'a.o', attach: XDP }],
  ...more,
});
const tc = (name: string, more: Record<string, unknown>) => ({
  name,
  attach: { kind: 'tc', interface: 'eth0', direction: 'egress', ...more },
});

test.each([
  ['the least manifest', {}],
  ['BTF beside the object', { objects: [OBJECT, { ...OBJECT, file: 'b.btf', kind: 'btf' }] }],
  [
    'one program at two places',
    {
      programs: [
        { name: 'p', attach: XDP },
        { name: 'p', attach: { ...XDP, interface: 'eth1' } },
      ],
    },
  ],
  [
    'programs of one name in two objects',
    TWO_WITH({ programs: ['a.o', 'b.o'].map((object) => ({ name: 'p', object, attach: XDP })) }),
  ],
  [
    'one constant in each object',
    TWO_WITH({ constants: ['a.o', 'b.o'].map((object) => ({ name: 'c', object, type: 'u8', value: 1 })) }),
  ],
  ['an order among its own programs', { programs: [tc('p', {}), tc('q', { before: 'p' })] }],
  ["an order with another artifact's program", { programs: [tc('p', { after: 'other/q' })] }],
  ['a kernel range', { kernel_version: '6.1', kernel_before: '6.1.1' }],
  ['metadata as in the seed', { metadata: { policy_type: 'egress', target_ip: '8.8.8.8', protocol: 'icmp' } }],
  ['text in any script', { description: 'Verwirft ICMP – 拦截 – 👍🏽' }],
])('takes %s', (_, fields) => {
  expect(faultOf(fields)).toBeNull();
});

test.each([
  [
    'a program whose object is not named, of two',
    TWO,
    'manifest: programs, constants and maps must name one of the objects (or none when there is only one)',
  ],
  [
    'a constant of an object that is not there',
    { constants: [{ name: 'c', object: 'c.o', type: 'u8', value: 1 }] },
    'manifest: programs, constants and maps must name one of the objects (or none when there is only one)',
  ],
  [
    'a program of BTF',
    {
      objects: [OBJECT, { ...OBJECT, file: 'b.btf', kind: 'btf' }],
      programs: [{ name: 'p', object: 'b.btf', attach: XDP }],
    },
    'manifest: programs, constants and maps must name one of the objects (or none when there is only one)',
  ],
  [
    'BTF twice',
    { objects: ['b', 'c'].map((file) => ({ ...OBJECT, file, kind: 'btf' })).concat(OBJECT) },
    'manifest: objects: at most one has BTF',
  ],
  [
    'one constant twice, once with the name of the only object',
    {
      constants: [
        { name: 'c', type: 'u8', value: 1 },
        { name: 'c', object: 'a.o', type: 'u8', value: 2 },
      ],
    },
    'manifest: constants: one constant stands there twice',
  ],
  ['one map twice', { maps: [{ name: 'm', keep: true }, { name: 'm' }] }, 'manifest: maps: one map stands there twice'],
  [
    'one program twice at one place',
    {
      programs: [
        { name: 'p', attach: XDP },
        { name: 'p', object: 'a.o', attach: { ...XDP, mode: 'auto' } },
      ],
    },
    'manifest: programs: one program is attached twice at the same place',
  ],
  [
    'an order with a program that is not there',
    { programs: [tc('p', { before: 'q' })] },
    'manifest: programs: before and after name another program of this manifest, or artifact/program',
  ],
  [
    'an empty kernel range',
    { kernel_version: '6.10', kernel_before: '6.9' },
    'manifest: kernel_before: must be newer than kernel_version',
  ],
  [
    'a value that is none of its type',
    { constants: [{ name: 'c', type: 'ipv4', value: '1.2.3' }] },
    "manifest.constants.0.value: '1.2.3' is no ipv4: give an address such as 192.0.2.9.",
  ],
  [
    'a constant whose name is a prototype',
    { constants: [{ name: '__proto__', type: 'u8', value: 1 }] },
    'manifest.constants.0.name: a C identifier',
  ],
  [
    'a map item without a value',
    { maps: [{ name: 'm', initial: [{ key: 1 }] }] },
    'manifest.maps.0.initial.0.value: is missing',
  ],
  [
    '65 facts',
    { metadata: Object.fromEntries(Array.from({ length: 65 }, (_, at) => [`k${at}`, ''])) },
    'manifest.metadata: at most 64 entries',
  ],
  [
    'a fact under a name with a path',
    { metadata: { '../x': '' } },
    'manifest.metadata.../x: 1–63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit',
  ],
  [
    'a line break in a description',
    { description: 'one\ntwo' },
    'manifest.description: one line without control characters',
  ],
  [
    'a paragraph separator in a description',
    { description: 'one\u2029two' },
    'manifest.description: one line without control characters',
  ],
])('refuses %s', (_, fields, sentence) => {
  expect(faultOf(fields)).toBe(sentence);
});

test.each([
  ['5.15', '6.1', -1],
  ['6.9', '6.10', -1],
  ['6.1.0', '6.1', 0],
  ['6.1.2', '6.1', 1],
  ['10.0', '9.99.99', 1],
])('kernel %s against %s', (a, b, sign) => {
  expect(Math.sign(compareKernelVersions(a, b))).toBe(sign);
  expect(Math.sign(compareKernelVersions(b, a))).toBe(sign === 0 ? 0 : -sign);
});
