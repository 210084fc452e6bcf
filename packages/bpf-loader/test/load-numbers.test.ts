import { readFileSync } from 'node:fs';
import { beforeAll, expect, test } from 'vitest';
import { type Btf, parseBtf } from '../src/btf.ts';
import {
  ATTACH_SINCE,
  ATTACH_TYPES,
  attachTypeName,
  isProgramType,
  loadKindOf,
  mapTypeName,
  olderThan,
  PROGRAM_TYPE_NUMBERS,
  PROGRAM_TYPE_SINCE,
  programTypeName,
} from '../src/kernel-types.ts';
import { SOCK_ADDR_HOOKS, SOCK_HOOKS } from '../src/types.ts';

/** The numbers that are written down here are those of the kernel, as its own BTF has them. */

let kernel: Btf;
beforeAll(() => {
  kernel = parseBtf(readFileSync('/sys/kernel/btf/vmlinux'));
});

/** Lower-case names without the prefix, by number; the first of aliases. */
const enumOf = (name: string, prefix: string): Map<number, string[]> => {
  const type = kernel.type(kernel.typeByName(`enum ${name}`) ?? 0);
  if (type.kind !== 'enum') throw new Error(`the kernel has no enum ${name}`);
  const names = new Map<number, string[]>();
  for (const one of type.values) {
    if (!one.name.startsWith(prefix) || /_MAX|__MAX/.test(one.name)) continue;
    const number = Number(one.value);
    names.set(number, [...(names.get(number) ?? []), one.name.slice(prefix.length).toLowerCase()]);
  }
  return names;
};

test('program types', () => {
  const names = enumOf('bpf_prog_type', 'BPF_PROG_TYPE_');
  for (const [name, number] of Object.entries(PROGRAM_TYPE_NUMBERS)) {
    expect(names.get(number)).toContain(name);
    expect(programTypeName(number)).toBe(name);
  }
  expect(programTypeName(4)).toBe('type_4');
  expect([isProgramType('xdp'), isProgramType('type_4'), isProgramType('toString')]).toEqual([true, false, false]);
  expect(Object.keys(PROGRAM_TYPE_SINCE)).toEqual(Object.keys(PROGRAM_TYPE_NUMBERS));
});

test('attach types', () => {
  const names = enumOf('bpf_attach_type', 'BPF_');
  expect(
    ATTACH_TYPES.map((name, number) => [number, names.get(number)?.includes(name) ? name : names.get(number)]),
  ).toEqual(ATTACH_TYPES.map((name, number) => [number, name]));
  expect(attachTypeName(4000)).toBe('attach_type_4000');
});

test('map types', () => {
  const names = enumOf('bpf_map_type', 'BPF_MAP_TYPE_');
  for (const [number, [name]] of names) {
    // Since 6.3 the old names bear "deprecated" and stand beside the ones that bpftool prints.
    const ours = mapTypeName(number);
    expect(
      [number, ...(names.get(number) ?? [])].some((one) => one === ours) || ours === `type_${number}`,
      `${number} ${name} ${ours}`,
    ).toBe(true);
  }
});

test('the commands of bpf(2) that libbpf 1.1 has no call for', () => {
  const names = enumOf('bpf_cmd', 'BPF_');
  const ours = { 16: 'prog_query', 17: 'raw_tracepoint_open', 28: 'link_create', 29: 'link_update' };
  for (const [number, name] of Object.entries(ours)) expect(names.get(Number(number))).toContain(name);
});

test('link types', () => {
  const names = enumOf('bpf_link_type', 'BPF_LINK_TYPE_');
  const ours = [
    'unspec',
    'raw_tracepoint',
    'tracing',
    'cgroup',
    'iter',
    'netns',
    'xdp',
    'perf_event',
    'kprobe_multi',
    'struct_ops',
  ];
  expect(
    [...ours, 'netfilter', 'tcx', 'uprobe_multi', 'netkit', 'sockmap'].map((name, at) => names.get(at)?.includes(name)),
  ).toEqual(Array.from({ length: 15 }, () => true));
});

test('every kind says what its program is loaded as', () => {
  const kinds = [
    ...SOCK_ADDR_HOOKS.map((hook) => loadKindOf({ kind: 'cgroup_sock_addr', cgroup: '/', hook })),
    ...SOCK_HOOKS.map((hook) => loadKindOf({ kind: 'cgroup_sock', cgroup: '/', hook })),
  ];
  expect(new Set(kinds.map(({ attachType }) => attachType)).size).toBe(16);
  expect(Object.keys(ATTACH_SINCE)).toHaveLength(24);
});

test.each([
  ['6.18.44-fc', '6.6', false],
  ['6.6.0', '6.6', false],
  ['6.1.0-18-amd64', '6.6', true],
  ['5.15', '6.6', true],
  ['7.0.0-rc1', '6.18', false],
  // Not to be read: nothing is said to be missing.
  ['', '4.5', false],
])('kernel %s is older than %s: %s', (release, since, older) => {
  expect(olderThan(release, since)).toBe(older);
});
