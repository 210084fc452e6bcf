import { statSync } from 'node:fs';
import { expect, test } from 'vitest';
import { attach } from '../src/attach.ts';
import { LoaderError } from '../src/errors.ts';
import { hookState, interfaceIndex, linkIds, xdpState } from '../src/kernel.ts';
import { linkById, openLink } from '../src/link.ts';
import { loadObject } from '../src/object.ts';
import { attachTc, detachTc, queryTc, type TcPoint } from '../src/tc.ts';
import type { AttachPoint } from '../src/types.ts';
import { makeCgroup } from './cgroup.ts';
import { bpftool } from './commands.ts';
import { record } from './fixture.ts';
import { makeNetns, type Side } from './netns.ts';
import { makePins } from './pins.ts';
import { programBytes } from './programs.ts';

/** Links: what holds a program when nobody does, what the kernel says of it, and how another program takes its place. */

const failure = async (work: Promise<unknown> | (() => unknown)): Promise<LoaderError> => {
  const thrown: unknown = await (typeof work === 'function' ? (async () => work())() : work).then(
    () => null,
    (error: unknown) => error,
  );
  if (!(thrown instanceof LoaderError)) throw new Error(`no LoaderError: ${String(thrown)}`);
  return thrown;
};

const xdpAt = (side: Side) => ({ kind: 'xdp', interface: side.interface, mode: 'generic', netns: side.path }) as const;

test('a pinned link outlives its process, one that is not pinned does not', async () => {
  using net = makeNetns();
  using pins = makePins();
  const point = xdpAt(net.near);
  const held = async (): Promise<number[]> => (await hookState(point)).programIds;
  {
    using object = await loadObject(programBytes('attach_xdp'), { programs: [{ name: 'block_icmp', attach: point }] });
    using attachment = await attach(object.program('block_icmp'), point);
    expect(await held()).toEqual([object.program('block_icmp').id]);
    expect(attachment).toMatchObject({ point, pinPaths: [] });
  }
  expect(await held()).toEqual([]);
  {
    using object = await loadObject(programBytes('attach_xdp'));
    using attachment = await attach(object.program('block_icmp'), point, { pinPath: pins.at('link') });
    expect(attachment.pinPaths).toEqual([pins.at('link')]);
  }
  expect(await held()).toHaveLength(1);
  using link = openLink(pins.at('link'));
  const info = link.info();
  expect(info).toEqual({
    id: expect.any(Number),
    kind: 'xdp',
    programId: (await held())[0],
    ifindex: net.near.ifindex,
    attachType: 'xdp',
  });
  expect(linkIds()).toContain(info.id);
  expect(await bpftool(['link', 'show', 'pinned', pins.at('link')])).toMatchObject({
    id: info.id,
    prog_id: info.programId,
  });
  using byId = linkById(info.id);
  byId.detach();
  expect(await held()).toEqual([]);
  // Detached for every holder: the pin is still there and holds nothing.
  expect(link.info()).toEqual({ ...info, ifindex: 0 });
});

test('a program is replaced only while the expected one is in the link', async () => {
  using net = makeNetns();
  const point = xdpAt(net.near);
  using object = await loadObject(programBytes('attach_xdp'));
  using other = await loadObject(programBytes('attach_xdp'));
  using third = await loadObject(programBytes('attach_xdp'));
  const [first, second, stranger] = [object, other, third].map((one) => one.program('block_icmp'));
  if (!first || !second || !stranger) throw new Error('no programs');
  using attachment = await attach(first, point);
  const link = attachment.links[0];
  if (!link) throw new Error('no link');
  link.update(second, first);
  expect(link.info().programId).toBe(second.id);
  const refused = await failure(() => link.update(stranger, first));
  expect(refused).toMatchObject({
    code: 'bpf.attach_refused',
    message: 'The link runs another program than expected: read it again before replacing it.',
  });
  expect(link.info().programId).toBe(second.id);
  link.update(stranger);
  expect((await xdpState(point.interface, point.netns)).generic).toBe(stranger.id);
  using tc = await loadObject(programBytes('many_programs'), { programs: [{ name: 'at_tc' }] });
  expect(await failure(() => link.update(tc.program('at_tc')))).toMatchObject({
    code: 'bpf.attach_refused',
    errno: 22,
  });
});

test('a second program on an XDP hook is refused by the name of the first', async () => {
  using net = makeNetns();
  using object = await loadObject(programBytes('attach_xdp'));
  const program = object.program('block_icmp');
  using _first = await attach(program, xdpAt(net.near));
  using other = await loadObject(programBytes('globals'));
  const refused = await failure(attach(other.program('copy'), xdpAt(net.near)));
  expect(refused).toMatchObject({
    code: 'bpf.hook_busy',
    message: `The XDP hook of wire holds one program and program ${program.id} (block_icmp) is there: detach that one first.`,
    details: { programId: program.id, name: 'block_icmp' },
  });
});

test('an attachment that cannot be pinned is not made', async () => {
  using net = makeNetns();
  using pins = makePins();
  using object = await loadObject(programBytes('attach_xdp'));
  const program = object.program('block_icmp');
  program.pin(pins.at('taken'));
  for (const [pinPath, words] of [
    [pins.at('taken'), /is pinned at .* already: remove it first or take another name/],
    [pins.at('no/folder'), /The folder of .* is not there/],
    [pins.at('with.dot'), /Operation not permitted/],
    ['/proc/self/link', /Cannot pin|folder/],
  ] as const) {
    const refused = await failure(attach(program, xdpAt(net.near), { pinPath }));
    expect(refused).toMatchObject({ code: 'bpf.pin_failed', details: { pinPath } });
    expect(refused.message).toMatch(words);
    expect((await hookState(xdpAt(net.near))).programIds).toEqual([]);
  }
  expect(pins.list()).toEqual(['taken']);
});

test('links of a namespace, an interface and a cgroup that are gone say so', async () => {
  using pins = makePins();
  using xdp = await loadObject(programBytes('attach_xdp'));
  using lookup = await loadObject(programBytes('attach_sk_lookup'), { programs: [{ name: 'steer' }] });
  {
    using net = makeNetns();
    const netns = net.near.path;
    using a = await attach(xdp.program('block_icmp'), xdpAt(net.near), { pinPath: pins.at('xdp') });
    using b = await attach(lookup.program('steer'), { kind: 'sk_lookup', netns }, { pinPath: pins.at('lookup') });
    expect(b.links[0]?.info().netnsInode).toBe(statSync(netns).ino);
    expect(await hookState({ kind: 'sk_lookup', netns })).toEqual({
      programIds: [lookup.program('steer').id],
      linkIds: [],
    });
    expect(a.links).toHaveLength(1);
    expect(await interfaceIndex(net.near.interface, netns)).toBe(net.near.ifindex);
  }
  using skb = await loadObject(programBytes('attach_cgroup_skb'), { programs: [{ name: 'block_out' }] });
  {
    await using group = await makeCgroup();
    const point = { kind: 'cgroup_skb', cgroup: group.path, direction: 'egress' } as const;
    using c = await attach(skb.program('block_out'), point, { pinPath: pins.at('skb') });
    expect(c.links[0]?.info().cgroupId).toBe(group.id);
    expect((await hookState(point)).programIds).toEqual([skb.program('block_out').id]);
    expect((await hookState(point, { effective: true })).programIds).toContain(skb.program('block_out').id);
  }
  // The kernel takes namespaces and cgroups apart after the fact: wait for it.
  await expect.poll(() => openLink(pins.at('xdp')).info().ifindex, { timeout: 20_000 }).toBe(0);
  await expect.poll(() => openLink(pins.at('lookup')).info().netnsInode, { timeout: 20_000 }).toBe(0);
  await expect.poll(() => openLink(pins.at('skb')).info().cgroupId, { timeout: 20_000 }).toBe(0n);
});

test('links of tracing kinds take no other program, and go with their last holder', async () => {
  using object = await loadObject(programBytes('attach_tracepoint'));
  const program = object.program('on_exec');
  const point = { kind: 'tracepoint', category: 'sched', name: 'sched_process_exec' } as const;
  let id = 0;
  {
    using attachment = await attach(program, point);
    const link = attachment.links[0];
    if (!link) throw new Error('no link');
    id = link.info().id;
    expect(link.info()).toEqual({ id, kind: 'tracepoint', programId: program.id, name: 'sched_process_exec' });
    expect(await failure(() => link.update(program))).toMatchObject({
      code: 'bpf.unsupported',
      message: 'A link of kind tracepoint takes no other program: attach the new one beside it, then remove this link.',
    });
    expect((await failure(() => link.detach())).code).toBe('bpf.unsupported');
  }
  expect(linkIds()).not.toContain(id);
});

test('perf events on every cpu are all pinned or none', async () => {
  using pins = makePins();
  using object = await loadObject(programBytes('attach_perf_event'));
  const program = object.program('sample');
  const point = { kind: 'perf_event', event: 'cpu_clock', frequency: 50, cpu: -1, pid: -1 } as const;
  {
    using attachment = await attach(program, point, { pinPath: pins.at('clock') });
    expect(attachment.links.length).toBeGreaterThan(0);
    expect(attachment.pinPaths).toEqual(attachment.links.map((_, cpu) => pins.at(`clock-${cpu}`)));
    expect(pins.list()).toEqual(attachment.pinPaths.map((path) => path.slice(pins.path.length + 1)).sort());
  }
  if (pins.list().length < 2) return; // one cpu: there is no half way
  using object2 = await loadObject(programBytes('attach_perf_event'));
  object2.program('sample').pin(pins.at('half-1'));
  const refused = await failure(attach(object2.program('sample'), point, { pinPath: pins.at('half') }));
  expect(refused.code).toBe('bpf.pin_failed');
  expect(pins.list().filter((name) => name.startsWith('half'))).toEqual(['half-1']);
});

test('clsact: what is not ours stays, its qdisc too', async () => {
  using net = makeNetns();
  const { near } = net;
  const spec = { programs: ['one', 'two', 'three'].map((name) => ({ name, type: 'sched_cls' as const })) };
  using object = await loadObject(programBytes('attach_tc'), spec);
  const [one, two] = [object.program('one'), object.program('two')];
  const at = (handle: number): TcPoint => ({
    kind: 'tc',
    interface: near.interface,
    direction: 'egress',
    priority: 10,
    handle,
    netns: near.path,
  });
  expect(await queryTc(at(1))).toBe(0);
  expect(await failure(attachTc(one, at(1), two.id))).toMatchObject({ code: 'bpf.attach_refused' });
  // The qdisc that was made for it is gone again.
  expect(await attachTc(one, at(1))).toEqual({ programId: one.id, madeQdisc: true });
  expect(await attachTc(two, at(2))).toEqual({ programId: two.id, madeQdisc: false });
  expect(await failure(attachTc(two, at(1)))).toMatchObject({ code: 'bpf.hook_busy', details: { programId: one.id } });
  expect(await failure(attachTc(two, at(1), two.id))).toMatchObject({ code: 'bpf.hook_busy' });
  expect(await failure(attachTc(two, at(3), two.id))).toMatchObject({ code: 'bpf.attach_refused' });
  expect(await failure(detachTc(at(1), two.id, { removeQdisc: true }))).toMatchObject({ code: 'bpf.attach_refused' });
  expect(await queryTc(at(1))).toBe(one.id);
  expect(await detachTc(at(1), one.id, { removeQdisc: true })).toBe(false);
  expect(await queryTc(at(2))).toBe(two.id);
  // Gone already: nothing to do, and no error.
  expect(await detachTc(at(1), one.id)).toBe(false);
  expect(await detachTc(at(2), two.id, { removeQdisc: true })).toBe(true);
  const { tc } = record(((await bpftool(['net', 'show'], near.path)) as unknown[])[0] as never);
  expect(tc).toEqual([]);
});

test('offload: the driver of the interface is asked, in its namespace', async () => {
  using net = makeNetns();
  const { interface: name, path: netns } = net.near;
  const at = (interfaceName: string) =>
    loadObject(programBytes('attach_xdp'), {
      programs: [{ name: 'block_icmp', attach: { kind: 'xdp', interface: interfaceName, mode: 'offload', netns } }],
    });
  expect(await failure(at(name))).toMatchObject({
    code: 'bpf.unsupported',
    program: 'block_icmp',
    message: `The driver or card of ${name} does not offload XDP programs: take mode native or generic.`,
  });
  expect(await failure(at('nope'))).toMatchObject({
    code: 'bpf.no_such_target',
    message: 'There is no interface nope.',
  });
});

test('a socket filter lives as long as its handle', async () => {
  using net = makeNetns();
  using object = await loadObject(programBytes('attach_socket_filter'));
  const program = object.program('tap');
  const point = { kind: 'socket_filter', interface: net.near.interface, netns: net.near.path } as const;
  using _attachment = await attach(program, point);
  expect((await failure(attach(program, point, { pinPath: '/sys/fs/bpf/x' }))).message).toBe(
    'socket_filter has no link that could be pinned: attach it without pinPath.',
  );
  expect((await failure(hookState(point))).code).toBe('bpf.invalid');
});

const cgroup = '/sys/fs/cgroup/no-such-group';
test.each<[string, string, AttachPoint, string]>([
  ['an interface', 'attach_xdp', { kind: 'xdp', interface: 'nope', mode: 'auto' }, 'There is no interface nope.'],
  [
    'a namespace',
    'attach_xdp',
    { kind: 'xdp', interface: 'lo', mode: 'auto', netns: '/run/netns/no-such' },
    'There is no network namespace /run/netns/no-such.',
  ],
  [
    'a file that is no namespace',
    'attach_xdp',
    { kind: 'xdp', interface: 'lo', mode: 'auto', netns: '/etc/hostname' },
    '/etc/hostname is not a network namespace.',
  ],
  ['a cgroup', 'attach_device', { kind: 'cgroup_device', cgroup }, `There is no cgroup ${cgroup}.`],
  [
    'a folder that is no cgroup',
    'attach_device',
    { kind: 'cgroup_device', cgroup: '/etc' },
    '/etc is not in a cgroup v2',
  ],
  [
    'a tracepoint',
    'attach_tracepoint',
    { kind: 'tracepoint', category: 'sched', name: 'no_such' },
    'The kernel has no tracepoint sched/no_such',
  ],
  [
    'a binary',
    'attach_uprobe',
    { kind: 'uprobe', binary: '/no/such', symbol: 'main', offset: 0 },
    'There is no file /no/such.',
  ],
  [
    'a symbol',
    'attach_uprobe',
    { kind: 'uprobe', binary: process.execPath, symbol: 'no_such_symbol', offset: 0 },
    'has no function no_such_symbol in its symbol tables: give an offset.',
  ],
  [
    'a file that is no program',
    'attach_uprobe',
    { kind: 'uprobe', binary: '/etc/passwd', symbol: 'main', offset: 0 },
    '/etc/passwd is not a program or library',
  ],
])('%s that is not there is named', async (_, name, point, sentence) => {
  using object = await loadObject(programBytes(name));
  const [program] = object.programs.values();
  if (!program) throw new Error('no program');
  const refused = await failure(attach(program, point));
  expect(refused.code).toBe('bpf.no_such_target');
  expect(refused.message).toContain(sentence);
});

test.each<[string, AttachPoint]>([
  ['an empty interface name', { kind: 'xdp', interface: '', mode: 'auto' }],
  ['a long interface name', { kind: 'xdp', interface: 'x'.repeat(16), mode: 'auto' }],
  ['a relative namespace', { kind: 'xdp', interface: 'lo', mode: 'auto', netns: 'netns' }],
  ['a relative cgroup', { kind: 'cgroup_device', cgroup: 'group' }],
  ['a tracepoint with a path', { kind: 'tracepoint', category: '../x', name: 'y' }],
  ['a negative offset', { kind: 'uprobe', binary: '/bin/sh', offset: -1 }],
  ['a priority of 17 bits', { kind: 'tc', interface: 'lo', direction: 'ingress', priority: 65_536, handle: 1 }],
  ['a handle of nothing', { kind: 'tc', interface: 'lo', direction: 'ingress', priority: 1, handle: 0 }],
  ['neither period nor frequency', { kind: 'perf_event', event: 'cpu_clock', cpu: 0, pid: -1 }],
  ['a neighbour of no id', { kind: 'tcx', interface: 'lo', direction: 'ingress', order: { before: 0 } }],
])('%s is refused before the kernel is asked', async (_, point) => {
  using object = await loadObject(programBytes('attach_xdp'));
  expect((await failure(attach(object.program('block_icmp'), point))).code).toBe('bpf.invalid');
});
