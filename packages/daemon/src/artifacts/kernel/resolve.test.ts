import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { attachmentKey, filterHandle, parseRecord, recordText } from './attachment.ts';
import { cgroupMount, parseCpus, resolvePrograms } from './resolve.ts';

const facts = {
  inode: 7,
  interfaces: [
    { name: 'lo', index: 1 },
    { name: 'eth0', index: 2 },
    { name: 'eth1', index: 3 },
  ],
  routes: '',
  routes6: '',
};
const options = { owner: 'a', namespace: async () => facts, cgroupRoot: '/nowhere', hasTcx: true, records: [] };
const tc = { kind: 'tc', direction: 'egress', mechanism: 'auto', priority: 50 } as const;

test('auto is tcx where the kernel has it, and clsact elsewhere', async () => {
  const programs = [{ name: 'p', attach: { ...tc, interface: 'eth0' } }];
  const kind = async (hasTcx: boolean) =>
    (await resolvePrograms(programs, { ...options, hasTcx })).wanted[0]?.point.kind;
  expect([await kind(true), await kind(false)]).toEqual(['tcx', 'tc']);
  await expect(
    resolvePrograms([{ name: 'p', attach: { ...tc, mechanism: 'tcx', interface: 'eth0' } }], {
      ...options,
      hasTcx: false,
    }),
  ).rejects.toThrow('This kernel has no tcx (it is there since Linux 6.6)');
});

test('a glob and a name that mean the same are one attachment; what is missing waits', async () => {
  const { wanted, waiting } = await resolvePrograms(
    [
      { name: 'p', attach: { ...tc, interface: 'eth*' } },
      { name: 'p', attach: { ...tc, interface: 'eth1' } },
      { name: 'q', attach: { ...tc, interface: 'wlan0' } },
      { name: 'r', attach: { kind: 'cgroup_skb', cgroup: '/absent', direction: 'egress' } },
    ],
    options,
  );
  expect(wanted.map(({ program, place, via }) => [program.name, place, via])).toEqual([
    ['p', { ifindex: 2, netns: 7 }, 'eth*'],
    ['p', { ifindex: 3, netns: 7 }, 'eth*'],
  ]);
  expect(waiting).toEqual([
    { program: 'q', hook: 'tc egress on wlan0', reason: 'There is no interface wlan0.' },
    {
      program: 'r',
      hook: 'cgroup_skb egress in /absent',
      reason: 'There is no cgroup /absent.',
      path: '/nowhere/absent',
    },
  ]);
});

test('an event runs on each cpu that is online', () => {
  expect(parseCpus('0-3,8\n')).toEqual([0, 1, 2, 3, 8]);
  expect(parseCpus('0\n')).toEqual([0]);
});

test('keys say program and hook, and not what may change while the hook stays', () => {
  const tcx = { kind: 'tcx', interface: 'eth0', direction: 'egress' } as const;
  const key = (program: string, point: Parameters<typeof attachmentKey>[1]) => attachmentKey({ name: program }, point);
  expect(key('p', tcx)).toBe(key('p', { ...tcx, order: 'first' }));
  expect(key('p', tcx)).not.toBe(key('q', tcx));
  expect(key('p', tcx)).not.toBe(key('p', { ...tcx, netns: '/run/netns/a' }));
  const xdp = { kind: 'xdp', interface: 'eth0', mode: 'auto' } as const;
  expect(key('p', xdp)).toBe(key('q', { ...xdp, mode: 'native' }));
  expect(filterHandle('a', 'k')).not.toBe(filterHandle('b', 'k'));
  expect(filterHandle('a', 'k')).toBe(filterHandle('a', 'k') & 0x7fffffff);
});

test('a record is read as it was written; anything else is none', () => {
  const point = { kind: 'tcx', interface: 'eth0', direction: 'egress' } as const;
  const text = recordText('a', {
    key: 'k',
    program: { name: 'p', attach: { ...tc, interface: 'eth0' } },
    pin: 'p',
    point,
    place: { ifindex: 2, netns: 7 },
    order: { priority: 3 },
  });
  expect(parseRecord(text)).toEqual({
    artifact: 'a',
    program: 'p',
    point,
    place: { ifindex: 2, netns: 7 },
    order: { priority: 3 },
  });
  for (const wrong of [null, '', 'half', '{}', '{"artifact":"a"}']) expect(parseRecord(wrong)).toBe(null);
});

test('cgroup v2 is where all of it is mounted', () => {
  const proc = mkdtempSync(join(tmpdir(), 'aegis-proc-'));
  try {
    mkdirSync(join(proc, 'self'));
    const mounts = (...lines: string[]) => {
      writeFileSync(join(proc, 'self/mountinfo'), lines.join('\n'));
      return cgroupMount(proc);
    };
    const v1 = '30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu';
    const part = '40 24 0:27 /docker/x /part rw shared:1 - cgroup2 cgroup2 rw';
    const all = '41 24 0:27 / /sys/fs/a\\040b rw shared:1 - cgroup2 cgroup2 rw';
    expect([mounts(v1), mounts(v1, part), mounts(v1, part, all)]).toEqual([null, '/part', '/sys/fs/a b']);
  } finally {
    rmSync(proc, { recursive: true });
  }
});
