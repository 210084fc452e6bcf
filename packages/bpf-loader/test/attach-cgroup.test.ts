import { expect, test } from 'vitest';
import { type Attachment, attach } from '../src/attach.ts';
import type { LoadedObject } from '../src/object.ts';
import type { AttachPoint, SockAddrHook } from '../src/types.ts';
import { type Cgroup, makeCgroup } from './cgroup.ts';
import { bpftool, run, serve, socketProgram } from './commands.ts';
import { counters, dump, linkIsGone, linkShown, list, load, record } from './fixture.ts';
import { makeNetns, ping, pingInVain } from './netns.ts';
import { makePins } from './pins.ts';

/** Each kind of cgroup hook: attached, seen by bpftool in its cgroup, run, detached. */

type Point = Extract<AttachPoint, { cgroup: string }>;

/** What bpftool lists in a cgroup: `program name: attach type`. */
const listed = async (cgroup: Cgroup): Promise<string[]> => {
  const shown = await bpftool(['cgroup', 'show', cgroup.path]);
  return (shown === null ? [] : list(shown)).map((one) => `${record(one).name}: ${record(one).attach_type}`).sort();
};

const attachAll = async (
  object: LoadedObject,
  points: readonly (readonly [name: string, point: Point])[],
): Promise<DisposableStack & { attachments: Attachment[] }> => {
  const stack = new DisposableStack();
  const attachments: Attachment[] = [];
  for (const [name, point] of points) attachments.push(stack.use(await attach(object.program(name), point)));
  return Object.assign(stack, { attachments });
};

/** The kernel's account, bpftool's and ours agree, and nothing is left when it is let go. */
const checkPlace = async (attachment: Attachment, cgroup: Cgroup, programId: number): Promise<void> => {
  const [link] = attachment.links;
  if (!link) throw new Error('no link');
  const info = link.info();
  expect({ programId: info.programId, cgroupId: info.cgroupId }).toEqual({ programId, cgroupId: cgroup.id });
  const shown = await linkShown(info.id);
  expect([shown.type, shown.prog_id, shown.cgroup_id]).toEqual(['cgroup', programId, Number(cgroup.id)]);
};

test('cgroup_skb: blocks ICMP out of and into a cgroup, and only there', async () => {
  using net = makeNetns();
  await using cgroup = await makeCgroup();
  const { near, far } = net;
  const points = [
    ['block_out', { kind: 'cgroup_skb', cgroup: cgroup.path, direction: 'egress' }],
    ['block_in', { kind: 'cgroup_skb', cgroup: cgroup.path, direction: 'ingress' }],
  ] as const;
  const specs = points.map(([name, point]) => ({ name, attach: point }));
  using object = await load('attach_cgroup_skb', specs, { target_ip: far.ipv4 });
  const wrap = cgroup.inside;
  {
    using stack = await attachAll(object, points);
    expect(await listed(cgroup)).toEqual(['block_in: cgroup_inet_ingress', 'block_out: cgroup_inet_egress']);
    for (const [index, attachment] of stack.attachments.entries())
      await checkPlace(attachment, cgroup, object.program(points[index]?.[0] ?? '').id);
    expect(pingInVain(near, far.ipv4, { count: 3, wrap })).toBe(0);
    expect(ping(near, far.other, { count: 3, wrap })).toBe(3);
    expect(ping(near, far.ipv4)).toBe(1);
    // A ping that is sent and refused is EPERM to its sender; the answers of the other three passed both ways.
    expect(await counters(object.program('block_out'))).toMatchObject({ 0: 3, 1: 3, 2: 3 });
  }
  expect(await listed(cgroup)).toEqual([]);
  expect(ping(near, far.ipv4, { wrap })).toBe(1);
});

test('cgroup_sock: create, release, post_bind4 and post_bind6', async () => {
  await using cgroup = await makeCgroup();
  const points = [
    ['no_datagrams', { kind: 'cgroup_sock', cgroup: cgroup.path, hook: 'create' }],
    ['released', { kind: 'cgroup_sock', cgroup: cgroup.path, hook: 'release' }],
    ['no_port4', { kind: 'cgroup_sock', cgroup: cgroup.path, hook: 'post_bind4' }],
    ['no_port6', { kind: 'cgroup_sock', cgroup: cgroup.path, hook: 'post_bind6' }],
  ] as const;
  const specs = points.map(([name, point]) => ({ name, attach: point }));
  using net = makeNetns();
  using object = await load('attach_cgroup_sock', specs, { closed_port: 7001 });
  const act = async (...words: string[]) =>
    (await run(net.near.inside(cgroup.inside([socketProgram(), ...words])))).trim();
  {
    using stack = await attachAll(object, points);
    expect(await listed(cgroup)).toEqual([
      'no_datagrams: cgroup_inet_sock_create',
      'no_port4: cgroup_inet4_post_bind',
      'no_port6: cgroup_inet6_post_bind',
      'released: cgroup_inet_sock_release',
    ]);
    for (const [index, attachment] of stack.attachments.entries())
      await checkPlace(attachment, cgroup, object.program(points[index]?.[0] ?? '').id);
    expect(await act('socket', 'dgram')).toBe('error EPERM');
    expect(await act('socket', 'stream')).toBe('ok');
    expect(await act('bind', '4', '7001')).toBe('error EPERM');
    expect(await act('bind', '6', '7001')).toBe('error EPERM');
    expect(await act('bind', '4', '7002')).toBe('ok 7002');
    expect(await act('bind', '6', '7002')).toBe('ok 7002');
    expect(await counters(object.program('released'))).toEqual({ 0: 1, 1: 5, 2: 2, 3: 2 });
  }
  expect(await listed(cgroup)).toEqual([]);
  expect(await act('socket', 'dgram')).toBe('ok');
  expect(await act('bind', '4', '7001')).toBe('ok 7001');
});

const HOOKS: readonly [SockAddrHook, attachType: string][] = [
  ['bind4', 'cgroup_inet4_bind'],
  ['bind6', 'cgroup_inet6_bind'],
  ['connect4', 'cgroup_inet4_connect'],
  ['connect6', 'cgroup_inet6_connect'],
  ['sendmsg4', 'cgroup_udp4_sendmsg'],
  ['sendmsg6', 'cgroup_udp6_sendmsg'],
  ['recvmsg4', 'cgroup_udp4_recvmsg'],
  ['recvmsg6', 'cgroup_udp6_recvmsg'],
  ['getpeername4', 'cgroup_inet4_getpeername'],
  ['getpeername6', 'cgroup_inet6_getpeername'],
  ['getsockname4', 'cgroup_inet4_getsockname'],
  ['getsockname6', 'cgroup_inet6_getsockname'],
];

test('cgroup_sock_addr: all twelve hooks turn ports on the way in and out', async () => {
  await using cgroup = await makeCgroup();
  using net = makeNetns();
  const { near, far } = net;
  const points = HOOKS.map(
    ([hook]) => [`on_${hook}`, { kind: 'cgroup_sock_addr', cgroup: cgroup.path, hook }] as const,
  );
  const specs = points.map(([name, point]) => ({ name, attach: point }));
  using object = await load('attach_sock_addr', specs, { bind_port: 7200, front_port: 7000, back_port: 7100 });
  const act = async (...words: string[]) => (await run(near.inside(cgroup.inside([socketProgram(), ...words])))).trim();
  const serving = (act: string, family: string) => serve(far.inside([socketProgram(), act, family, '7100']));
  await using _tcp4 = await serving('tcp-serve', '4');
  await using _udp4 = await serving('udp-serve', '4');
  {
    using stack = await attachAll(object, points);
    expect(await listed(cgroup)).toEqual(HOOKS.map(([hook, type]) => `on_${hook}: ${type}`).sort());
    for (const [index, attachment] of stack.attachments.entries())
      await checkPlace(attachment, cgroup, object.program(points[index]?.[0] ?? '').id);
    // The socket is on 7200, and says 7000 to who asks.
    expect(await act('bind', '4', '7000')).toBe('ok 7000');
    expect(await act('bind', '6', '7000')).toBe('ok 7000');
    // Connected to 7100, where the server is; the peer says 7000.
    expect(await act('tcp-connect', '4', far.ipv4, '7000')).toBe('ok peer 7000 read 7100');
    expect(await act('udp-ask', '4', far.ipv4, '7000')).toBe('ok from 7000');
    expect(await counters(object.program('on_bind4'))).toEqual({ 0: 1, 1: 1, 2: 1, 4: 1, 6: 1, 8: 1, 10: 1, 11: 1 });
    await _tcp4[Symbol.asyncDispose]();
    await _udp4[Symbol.asyncDispose]();
    await using _tcp6 = await serving('tcp-serve', '6');
    await using _udp6 = await serving('udp-serve', '6');
    expect(await act('tcp-connect', '6', far.ipv6, '7000')).toBe('ok peer 7000 read 7100');
    expect(await act('udp-ask', '6', far.ipv6, '7000')).toBe('ok from 7000');
    const all = Object.fromEntries(HOOKS.map((_, slot) => [slot, 1]));
    expect(await counters(object.program('on_bind4'))).toEqual(all);
  }
  expect(await listed(cgroup)).toEqual([]);
  expect(await act('tcp-connect', '4', far.ipv4, '7000')).toBe('error ECONNREFUSED');
});

test('cgroup_sockopt: get and set', async () => {
  await using cgroup = await makeCgroup();
  const points = [
    ['on_set', { kind: 'cgroup_sockopt', cgroup: cgroup.path, hook: 'set' }],
    ['on_get', { kind: 'cgroup_sockopt', cgroup: cgroup.path, hook: 'get' }],
  ] as const;
  const specs = points.map(([name, point]) => ({ name, attach: point }));
  using object = await load('attach_sockopt', specs, { refused_tos: 8, shown_ttl: 42 });
  const act = async (...words: string[]) => (await cgroup.run([socketProgram(), ...words])).trim();
  {
    using stack = await attachAll(object, points);
    expect(await listed(cgroup)).toEqual(['on_get: cgroup_getsockopt', 'on_set: cgroup_setsockopt']);
    for (const [index, attachment] of stack.attachments.entries())
      await checkPlace(attachment, cgroup, object.program(points[index]?.[0] ?? '').id);
    expect(await act('set-tos', '8')).toBe('error EPERM');
    expect(await act('set-tos', '16')).toBe('ok');
    expect(await act('get-ttl')).toBe('ok 42');
    expect(await counters(object.program('on_set'))).toEqual({ 0: 2, 1: 1 });
  }
  expect(await act('set-tos', '8')).toBe('ok');
  expect(await act('get-ttl')).toBe('ok 64');
});

test('cgroup_sysctl: reading passes, writing is refused', async () => {
  await using cgroup = await makeCgroup();
  using net = makeNetns();
  const point = { kind: 'cgroup_sysctl', cgroup: cgroup.path } as const;
  using object = await load('attach_sysctl', [{ name: 'read_only', attach: point }]);
  const file = '/proc/sys/net/ipv4/ip_default_ttl';
  const act = async (...words: string[]) =>
    (await run(net.near.inside(cgroup.inside([socketProgram(), ...words])))).trim();
  {
    using attachment = await attach(object.program('read_only'), point);
    expect(await listed(cgroup)).toEqual(['read_only: cgroup_sysctl']);
    await checkPlace(attachment, cgroup, object.program('read_only').id);
    expect(await act('read-file', file)).toBe('ok 64');
    expect(await act('write-file', file, '65')).toBe('error EPERM');
    expect(await counters(object.program('read_only'))).toEqual({ 0: 1, 1: 1 });
    expect(await dump(object.program('read_only'), 'attach_s.bss')).toMatchObject([
      { value: { '.bss': [{ last_name: 'net/ipv4/ip_default_ttl' }] } },
    ]);
  }
  expect(await act('write-file', file, '65')).toBe('ok');
});

test('cgroup_device: one device is closed', async () => {
  await using cgroup = await makeCgroup();
  const point = { kind: 'cgroup_device', cgroup: cgroup.path } as const;
  using object = await load('attach_device', [{ name: 'no_zero', attach: point }]);
  const act = async (...words: string[]) => (await cgroup.run([socketProgram(), ...words])).trim();
  {
    using attachment = await attach(object.program('no_zero'), point);
    expect(await listed(cgroup)).toEqual(['no_zero: cgroup_device']);
    await checkPlace(attachment, cgroup, object.program('no_zero').id);
    expect(await act('open', '/dev/zero')).toBe('error EPERM');
    expect(await act('open', '/dev/null')).toBe('ok');
    expect(await counters(object.program('no_zero'))).toEqual({ 0: 1, 1: 1 });
  }
  expect(await act('open', '/dev/zero')).toBe('ok');
});

test('sock_ops: sees connections being made and taken, and fills a sockhash', async () => {
  await using cgroup = await makeCgroup();
  using net = makeNetns();
  const { near, far } = net;
  const point = { kind: 'sock_ops', cgroup: cgroup.path } as const;
  using object = await load('attach_sock_ops', [{ name: 'watch', attach: point }]);
  const program = object.program('watch');
  {
    using attachment = await attach(program, point);
    expect(await listed(cgroup)).toEqual(['watch: cgroup_sock_ops']);
    await checkPlace(attachment, cgroup, program.id);
    await using _server = await serve(far.inside(cgroup.inside([socketProgram(), 'tcp-serve', '4', '7100'])));
    const connected = await run(near.inside(cgroup.inside([socketProgram(), 'tcp-connect', '4', far.ipv4, '7100'])));
    expect(connected).toBe('ok peer 7100 read 7100\n');
    expect(await counters(program)).toMatchObject({ 0: 1, 1: 1, 2: 1 });
    // The accepted connection is closed again; the listening socket stays, under 0.
    const keys = (await dump(program, 'sockets')).map((entry) => record(entry).key);
    expect(keys).toEqual([['0x00', '0x00', '0x00', '0x00']]);
  }
  expect(await listed(cgroup)).toEqual([]);
});

test('a pinned link outlives the process that made it, and its program stays in the cgroup', async () => {
  await using cgroup = await makeCgroup();
  using pins = makePins();
  const point = { kind: 'cgroup_device', cgroup: cgroup.path } as const;
  let id = 0;
  {
    using object = await load('attach_device', [{ name: 'no_zero', attach: point }]);
    using attachment = await attach(object.program('no_zero'), point, { pinPath: pins.at('link') });
    expect(attachment.pinPaths).toEqual([pins.at('link')]);
    id = attachment.links[0]?.info().id ?? 0;
  }
  expect(await listed(cgroup)).toEqual(['no_zero: cgroup_device']);
  expect(record(await bpftool(['--bpffs', 'link', 'show', 'id', `${id}`])).pinned).toEqual([pins.at('link')]);
  pins[Symbol.dispose]();
  expect(await linkIsGone(id)).toBe(true);
  expect(await listed(cgroup)).toEqual([]);
});

test('a cgroup that is not there is said to be missing', async () => {
  const point = { kind: 'cgroup_device', cgroup: '/sys/fs/cgroup/no-such-cgroup' } as const;
  using object = await load('attach_device', [{ name: 'no_zero', attach: point }]);
  await expect(attach(object.program('no_zero'), point)).rejects.toMatchObject({
    code: 'bpf.no_such_target',
    errno: 2,
  });
});
