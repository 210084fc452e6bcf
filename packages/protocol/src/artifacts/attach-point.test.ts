import { expect, test } from 'vitest';
import * as z from 'zod/mini';
import { ATTACH_KINDS, AttachTo, describeAttachTo } from './attach-point.ts';

const EXAMPLES: Readonly<Record<AttachTo['kind'], [Record<string, unknown>, string]>> = {
  xdp: [{ interface: 'default-route' }, 'xdp on default-route'],
  tc: [{ interface: 'eth*', direction: 'egress' }, 'tc egress on eth*'],
  cgroup_skb: [{ cgroup: '/', direction: 'ingress' }, 'cgroup_skb ingress in /'],
  cgroup_sock: [{ cgroup: '/system.slice', hook: 'create' }, 'cgroup_sock create in /system.slice'],
  cgroup_sock_addr: [{ cgroup: '/', hook: 'connect4' }, 'cgroup_sock_addr connect4 in /'],
  cgroup_sockopt: [{ cgroup: '/', hook: 'get' }, 'cgroup_sockopt get in /'],
  cgroup_sysctl: [{ cgroup: '/' }, 'cgroup_sysctl in /'],
  cgroup_device: [{ cgroup: '/' }, 'cgroup_device in /'],
  sock_ops: [{ cgroup: '/' }, 'sock_ops in /'],
  tracepoint: [{ category: 'syscalls', name: 'sys_enter_execve' }, 'tracepoint syscalls:sys_enter_execve'],
  raw_tracepoint: [{ name: 'sched_switch' }, 'raw_tracepoint sched_switch'],
  kprobe: [{ symbol: 'do_unlinkat', offset: 4 }, 'kprobe do_unlinkat+4'],
  kretprobe: [{ symbol: 'do_unlinkat' }, 'kretprobe do_unlinkat'],
  uprobe: [{ binary: '/bin/bash', symbol: 'readline' }, 'uprobe /bin/bash:readline'],
  uretprobe: [{ binary: '/bin/bash', offset: 4660 }, 'uretprobe /bin/bash:+4660'],
  fentry: [{ function: 'tcp_connect' }, 'fentry tcp_connect'],
  fexit: [{ function: 'tcp_connect' }, 'fexit tcp_connect'],
  lsm: [{ hook: 'file_open' }, 'lsm file_open'],
  perf_event: [{ event: 'cpu_clock', frequency: 99 }, 'perf_event cpu_clock'],
  socket_filter: [{ interface: 'eth0' }, 'socket_filter on eth0'],
  sk_lookup: [{}, 'sk_lookup'],
  flow_dissector: [{ netns: '/run/netns/blue' }, 'flow_dissector in /run/netns/blue'],
  netfilter: [{ family: 'ipv4', hook: 'input' }, 'netfilter ipv4 input at 0'],
};

test.each(ATTACH_KINDS)('%s: read and described', (kind) => {
  const [fields, sentence] = EXAMPLES[kind];
  expect(describeAttachTo(z.parse(AttachTo, { kind, ...fields }))).toBe(sentence);
  expect(z.safeParse(AttachTo, { kind, ...fields, surplus: 1 }).success).toBe(false);
});

test('every kind of the schema has an example, and stands in the list', () => {
  expect([...ATTACH_KINDS].sort()).toEqual(Object.keys(EXAMPLES).sort());
  expect(AttachTo.def.options.length).toBe(ATTACH_KINDS.length);
});

test.each([
  ['..'],
  ['../x'],
  ['/..'],
  ['/a/..'],
  ['/a/../b'],
  ['/./a'],
  ['/\u2028/../etc'],
  ['/a\n/../b'],
  ['/a\0'],
  ['/\ud800'],
  [''],
  ['a/b'],
  [`/${'a'.repeat(1024)}`],
])('no path of the node: %j', (path) => {
  for (const point of [
    { kind: 'sock_ops', cgroup: path },
    { kind: 'uprobe', binary: path, symbol: 'x' },
    { kind: 'sk_lookup', netns: path },
  ])
    expect(z.safeParse(AttachTo, point).success).toBe(false);
});

test.each([['/'], ['/a..b/...'], ['/ü/日本'], ['/a b'], ['/.hidden']])('a path of the node: %j', (path) => {
  expect(z.safeParse(AttachTo, { kind: 'sock_ops', cgroup: path }).success).toBe(true);
});

test.each([['.'], ['..'], ['a/b'], ['eth0 '], ['eth0\n'], [''], ['ü0'], ['$(id)']])('no interface: %j', (name) => {
  expect(z.safeParse(AttachTo, { kind: 'xdp', interface: name }).success).toBe(false);
});

test.each(['uprobe', 'uretprobe'])('%s needs a symbol or an offset', (kind) => {
  expect(z.safeParse(AttachTo, { kind, binary: '/bin/sh' }).success).toBe(false);
});

test.each([
  ['both period and frequency', { period: 1, frequency: 1 }],
  ['neither', {}],
])('perf_event with %s', (_, fields) => {
  expect(z.safeParse(AttachTo, { kind: 'perf_event', event: 'cpu_clock', ...fields }).success).toBe(false);
});
