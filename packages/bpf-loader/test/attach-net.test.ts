import { expect, test } from 'vitest';
import { type Attachment, attach } from '../src/attach.ts';
import { LoaderError } from '../src/errors.ts';
import type { LoadedObject } from '../src/object.ts';
import type { Program } from '../src/program.ts';
import { detachTc } from '../src/tc.ts';
import { makeCgroup } from './cgroup.ts';
import { bpftool, run, serve, socketProgram } from './commands.ts';
import { counters, dump, linkIsGone, linkShown, list, load, record } from './fixture.ts';
import { makeNetns, type Netns, ping, pingInVain, type Side } from './netns.ts';
import { makePins } from './pins.ts';

/** Each kind of network hook, in a namespace: attached, seen by bpftool in its place, run, detached. */

/** `bpftool net show` of a namespace: program ids by hook. */
const netShown = async (side: Side) => {
  const [shown] = list(await bpftool(['net', 'show'], side.path)).map(record);
  const ids = (part: string) => list(shown?.[part] ?? []).map((one) => record(one).id ?? record(one).prog_id ?? null);
  return { xdp: ids('xdp'), tc: ids('tc') };
};

/** Names of the XDP program and its mode, as `ip link` prints them. */
const xdpOf = async (side: Side): Promise<{ mode: number; id: number } | null> => {
  const [link] = list(JSON.parse(await side.run(['ip', '-j', 'link', 'show', side.interface]))).map(record);
  if (!link?.xdp) return null;
  const xdp = record(link.xdp);
  return { mode: Number(xdp.mode), id: Number(record(xdp.prog).id) };
};
const NATIVE = 1;
const GENERIC = 2;

test.each([
  ['native', NATIVE],
  ['generic', GENERIC],
  ['auto', NATIVE],
] as const)('xdp %s: drops what it should, in the mode that was asked for', async (mode, shownMode) => {
  using net = makeNetns();
  const { near, far } = net;
  const point = { kind: 'xdp', interface: near.interface, mode, netns: near.path } as const;
  using object = await load('attach_xdp', [{ name: 'block_icmp', attach: point }], { target_ip: near.ipv4 });
  const program = object.program('block_icmp');
  let linkId = 0;
  {
    using attachment = await attach(program, point);
    const info = attachment.links[0]?.info();
    expect(info).toMatchObject({ kind: 'xdp', programId: program.id, ifindex: near.ifindex });
    linkId = info?.id ?? 0;
    expect(await xdpOf(near)).toEqual({ mode: shownMode, id: program.id });
    expect(await linkShown(linkId)).toMatchObject({ type: 'xdp', prog_id: program.id });
    expect((await netShown(near)).xdp).toEqual([program.id]);
    expect(pingInVain(far, near.ipv4, { count: 3 })).toBe(0);
    expect(ping(far, near.other, { count: 3 })).toBe(3);
    expect(await counters(program)).toMatchObject({ 1: 3 });
  }
  expect(await linkIsGone(linkId)).toBe(true);
  expect(await xdpOf(near)).toBeNull();
  expect(ping(far, near.ipv4)).toBe(1);
});

test('xdp offload: what has no hardware for it says so', async () => {
  // Offloading is bound when the program is loaded, so nothing is ever attached to lo.
  const point = { kind: 'xdp', interface: 'lo', mode: 'offload' } as const;
  const loading = load('attach_xdp', [{ name: 'block_icmp', attach: point }], { target_ip: '192.0.2.1' });
  await expect(loading).rejects.toMatchObject({ code: 'bpf.unsupported', program: 'block_icmp' });
});

test('xdp: a second program on the hook is refused, and the owner named', async () => {
  using net = makeNetns();
  const point = { kind: 'xdp', interface: net.near.interface, mode: 'auto', netns: net.near.path } as const;
  using object = await load('attach_xdp', [{ name: 'block_icmp', attach: point }], { target_ip: '192.0.2.9' });
  using second = await load('net_echo', [{ name: 'echo', attach: point }]);
  const owner = object.program('block_icmp');
  using _attachment = await attach(owner, point);
  await expect(attach(second.program('echo'), point)).rejects.toMatchObject({
    code: 'bpf.hook_busy',
    details: { programId: owner.id, name: 'block_icmp' },
  });
  expect(await xdpOf(net.near)).toEqual({ mode: NATIVE, id: owner.id });
});

test('xdp: an interface that is not there is said to be missing', async () => {
  using net = makeNetns();
  const point = { kind: 'xdp', interface: 'none0', mode: 'auto', netns: net.near.path } as const;
  using object = await load('attach_xdp', [{ name: 'block_icmp', attach: point }], { target_ip: '192.0.2.9' });
  await expect(attach(object.program('block_icmp'), point)).rejects.toMatchObject({ code: 'bpf.no_such_target' });
});

const TC_ACT_SHOT = 2;

const trail = async (program: Program): Promise<string> => {
  const [entry] = await dump(program, 'attach_t.bss');
  const [variable] = list(record(record(entry).value)['.bss']);
  return String(record(variable).trail);
};

/** The programs of `attach_tc`, loaded for one hook. */
const loadTc = (net: Netns, kind: 'tcx' | 'tc', direction: 'ingress' | 'egress', globals = {}) => {
  const place = { interface: net.near.interface, direction, netns: net.near.path };
  const attach = kind === 'tcx' ? ({ kind, ...place } as const) : ({ kind, ...place, priority: 1, handle: 1 } as const);
  const specs = ['one', 'two', 'three', 'four', 'last'].map((name) => ({ name, attach }));
  return load('attach_tc', specs, globals);
};

test.each(['ingress', 'egress'] as const)('tcx %s: order by first, last, before and after', async (direction) => {
  using net = makeNetns();
  const { near, far } = net;
  using object = await loadTc(net, 'tcx', direction);
  const point = { kind: 'tcx', interface: near.interface, direction, netns: near.path } as const;
  const program = (name: string) => object.program(name);
  const links: number[] = [];
  const hold = (attachment: Attachment) => {
    const info = attachment.links[0]?.info();
    expect(info).toMatchObject({ kind: 'tcx', ifindex: near.ifindex, attachType: `tcx_${direction}` });
    links.push(info?.id ?? 0);
    return attachment;
  };
  {
    using stack = new DisposableStack();
    stack.use(hold(await attach(program('two'), point)));
    stack.use(hold(await attach(program('last'), { ...point, order: 'last' })));
    stack.use(hold(await attach(program('one'), { ...point, order: 'first' })));
    stack.use(hold(await attach(program('four'), { ...point, order: { before: program('last').id } })));
    stack.use(hold(await attach(program('three'), { ...point, order: { after: program('two').id } })));
    for (const [index, name] of ['two', 'last', 'one', 'four', 'three'].entries())
      expect((await linkShown(links[index] ?? 0)).prog_id).toBe(program(name).id);
    expect(ping(near, far.ipv4)).toBe(1);
    expect(await trail(program('one'))).toBe('12349');
  }
  for (const id of links) expect(await linkIsGone(id)).toBe(true);
  expect(ping(near, far.ipv4)).toBe(1);
  expect(await trail(program('one'))).toBe('12349');
});

test('tcx: a verdict drops the packet, an unknown neighbour is refused', async () => {
  using net = makeNetns();
  const { near, far } = net;
  using object = await loadTc(net, 'tcx', 'ingress', { verdict: TC_ACT_SHOT });
  const point = { kind: 'tcx', interface: near.interface, direction: 'ingress', netns: near.path } as const;
  {
    using _attachment = await attach(object.program('last'), point);
    expect(pingInVain(far, near.ipv4, { count: 2 })).toBe(0);
    await expect(
      attach(object.program('one'), { ...point, order: { before: object.program('two').id } }),
    ).rejects.toMatchObject({ code: 'bpf.no_such_target' });
  }
  expect(ping(far, near.ipv4)).toBe(1);
  expect(await counters(object.program('last'))).toEqual({ 9: 2 });
});

test.each(['ingress', 'egress'] as const)(
  'tc by clsact %s: a filter in direct action, replaced by handle, taken off by its owner alone',
  async (direction) => {
    using net = makeNetns();
    const { near, far } = net;
    using object = await loadTc(net, 'tc', direction, { verdict: TC_ACT_SHOT });
    const place = { interface: near.interface, direction, netns: near.path };
    const point = { kind: 'tc', ...place, priority: 10, handle: 7 } as const;
    const filters = () => near.run(['tc', 'filter', 'show', 'dev', near.interface, direction]);
    const passing = object.program('one');
    const dropping = object.program('last');
    const { links, madeQdisc } = await attach(passing, point);
    expect({ links, madeQdisc }).toEqual({ links: [], madeQdisc: true });
    expect((await netShown(near)).tc).toEqual([passing.id]);
    expect(await filters()).toMatch(/pref 10 bpf .*handle 0x7 one.*direct-action/);
    expect(ping(near, far.ipv4)).toBe(1);
    await expect(attach(dropping, point)).rejects.toMatchObject({
      code: 'bpf.hook_busy',
      details: { programId: passing.id },
    });

    await attach(dropping, point, { replaceProgramId: passing.id });
    expect((await netShown(near)).tc).toEqual([dropping.id]);
    expect(pingInVain(near, far.ipv4, { count: 2 })).toBe(0);
    const seen = await counters(dropping);
    expect(seen[1]).toBe(1);
    // On its way out a dropped packet is an error to ping, which then tries again.
    expect(seen[9]).toBeGreaterThanOrEqual(2);

    await expect(detachTc(point, passing.id)).rejects.toMatchObject({ code: 'bpf.attach_refused' });
    expect(await detachTc(point, dropping.id, { removeQdisc: true })).toBe(true);
    expect(await filters()).toBe('');
    expect(await near.run(['tc', 'qdisc', 'show', 'dev', near.interface, 'clsact'])).not.toContain('clsact');
    expect(ping(near, far.ipv4)).toBe(1);
  },
);

test('socket_filter: a tap that keeps nothing and takes nothing away', async () => {
  using net = makeNetns();
  const { near, far } = net;
  const point = { kind: 'socket_filter', interface: near.interface, netns: near.path } as const;
  using object = await load('attach_socket_filter', [{ name: 'tap', attach: point }]);
  const program = object.program('tap');
  {
    using attachment = await attach(program, point);
    expect(attachment.links).toEqual([]);
    expect(ping(far, near.ipv4, { count: 3 })).toBe(3);
    // Three requests in, three answers out.
    expect(await counters(program)).toMatchObject({ 0: 6 });
  }
  expect(ping(far, near.ipv4)).toBe(1);
  expect(await counters(program)).toMatchObject({ 0: 6 });
});

test('sk_lookup: connections to one port reach a socket on another, those to a third none', async () => {
  using net = makeNetns();
  await using cgroup = await makeCgroup();
  const { near, far } = net;
  const keep = { kind: 'sock_ops', cgroup: cgroup.path } as const;
  const point = { kind: 'sk_lookup', netns: near.path } as const;
  using object = await load(
    'attach_sk_lookup',
    [
      { name: 'keep_listener', attach: keep },
      { name: 'steer', attach: point },
    ],
    { front_port: 7000, shut_port: 7100 },
  );
  const program = object.program('steer');
  using _kept = await attach(object.program('keep_listener'), keep);
  await using _server = await serve(near.inside(cgroup.inside([socketProgram(), 'tcp-serve', '4', '7100'])));
  const ask = async (port: string) => (await far.run([socketProgram(), 'tcp-connect', '4', near.ipv4, port])).trim();
  let linkId = 0;
  {
    using attachment = await attach(program, point);
    const info = attachment.links[0]?.info();
    expect(info).toMatchObject({ kind: 'netns', programId: program.id, attachType: 'sk_lookup' });
    linkId = info?.id ?? 0;
    expect(await linkShown(linkId)).toMatchObject({
      type: 'netns',
      prog_id: program.id,
      attach_type: 'sk_lookup',
      netns_ino: info?.netnsInode,
    });
    // The socket is the one on 7100, and says so; by its own port it cannot be reached.
    expect(await ask('7000')).toBe('ok peer 7000 read 7000');
    expect(await ask('7100')).toBe('error ECONNREFUSED');
    expect(await counters(program)).toEqual({ 0: 1, 1: 1, 2: 1 });
  }
  expect(await linkIsGone(linkId)).toBe(true);
  expect(await ask('7100')).toBe('ok peer 7100 read 7100');
  expect(await ask('7000')).toBe('error ECONNREFUSED');
});

test('netfilter: drops at a hook of its namespace, by priority', async () => {
  using net = makeNetns();
  const { near, far } = net;
  const point = { kind: 'netfilter', family: 'ipv4', hook: 'input', priority: -128, netns: near.path } as const;
  using object = await load('attach_netfilter', [{ name: 'no_icmp', attach: point }], { source_ip: far.ipv4 });
  const program = object.program('no_icmp');
  let linkId = 0;
  {
    using attachment = await attach(program, point);
    const info = attachment.links[0]?.info();
    expect(info).toMatchObject({
      kind: 'netfilter',
      programId: program.id,
      family: 'ipv4',
      hook: 'input',
      priority: -128,
    });
    linkId = info?.id ?? 0;
    expect((await linkShown(linkId)).prog_id).toBe(program.id);
    expect(pingInVain(near, far.ipv4, { count: 2 })).toBe(0);
    expect(ping(near, far.other, { count: 2 })).toBe(2);
    expect(await counters(program)).toEqual({ 0: 2, 1: 2 });
  }
  expect(await linkIsGone(linkId)).toBe(true);
  expect(ping(near, far.ipv4)).toBe(1);
});

test('flow_dissector: looks at the flows of its namespace', async () => {
  using net = makeNetns();
  const { near, far } = net;
  const point = { kind: 'flow_dissector', netns: near.path } as const;
  using object = await load('attach_flow_dissector', [{ name: 'dissect', attach: point }]);
  const program = object.program('dissect');
  // Packets are spread over CPUs by flow, so that somebody asks for it. /sys shows a namespace's own interfaces only where it is
  // mounted in it.
  const steering = `/sys/class/net/${near.interface}/queues/rx-0/rps_cpus`;
  await run(['ip', 'netns', 'exec', near.name, 'sh', '-c', `echo 1 >${steering}`]);
  let linkId = 0;
  {
    using attachment = await attach(program, point);
    const info = attachment.links[0]?.info();
    expect(info).toMatchObject({ kind: 'netns', programId: program.id, attachType: 'flow_dissector' });
    linkId = info?.id ?? 0;
    expect(await linkShown(linkId)).toMatchObject({
      type: 'netns',
      prog_id: program.id,
      attach_type: 'flow_dissector',
    });
    expect(await near.run(['bpftool', 'net', 'show'])).toContain(`flow_dissector:\nid ${program.id}`);
    expect(ping(near, far.ipv4, { count: 2 })).toBe(2);
    expect((await counters(program))[0]).toBeGreaterThan(1);
  }
  expect(await linkIsGone(linkId)).toBe(true);
});

test('an update of a link changes the program between two packets', async () => {
  using net = makeNetns();
  using pins = makePins();
  const { near, far } = net;
  const point = { kind: 'xdp', interface: near.interface, mode: 'native', netns: near.path } as const;
  const loadFor = (target: string): Promise<LoadedObject> =>
    load('attach_xdp', [{ name: 'block_icmp', attach: point }], { target_ip: target });
  using first = await loadFor(near.ipv4);
  using second = await loadFor(near.other);
  using attachment = await attach(first.program('block_icmp'), point, { pinPath: pins.at('link') });
  const [link] = attachment.links;
  expect([pingInVain(far, near.ipv4), ping(far, near.other)]).toEqual([0, 1]);
  link?.update(second.program('block_icmp'), first.program('block_icmp'));
  expect([ping(far, near.ipv4), pingInVain(far, near.other)]).toEqual([1, 0]);
  expect(await xdpOf(near)).toEqual({ mode: NATIVE, id: second.program('block_icmp').id });
  expect(() => link?.update(first.program('block_icmp'), first.program('block_icmp'))).toThrow(LoaderError);
});
