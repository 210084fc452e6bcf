/** The kernel's numbers and names: program types, attach types, and since which kernel each kind of attachment is there. */
import type { AttachKind, AttachPoint, ProgramType, SockAddrHook, SockHook } from './types.ts';

export const PROGRAM_TYPE_NUMBERS: Readonly<Record<ProgramType, number>> = {
  socket_filter: 1,
  kprobe: 2,
  sched_cls: 3,
  tracepoint: 5,
  xdp: 6,
  perf_event: 7,
  cgroup_skb: 8,
  cgroup_sock: 9,
  sock_ops: 13,
  cgroup_device: 15,
  raw_tracepoint: 17,
  cgroup_sock_addr: 18,
  flow_dissector: 22,
  cgroup_sysctl: 23,
  cgroup_sockopt: 25,
  tracing: 26,
  lsm: 29,
  sk_lookup: 30,
  netfilter: 32,
};

const PROGRAM_TYPE_NAMES = new Map<number, ProgramType>(
  (Object.entries(PROGRAM_TYPE_NUMBERS) as [ProgramType, number][]).map(([name, number]) => [number, name]),
);
export const programTypeName = (number: number): ProgramType | `type_${number}` =>
  PROGRAM_TYPE_NAMES.get(number) ?? `type_${number}`;

export const isProgramType = (name: string): name is ProgramType => Object.hasOwn(PROGRAM_TYPE_NUMBERS, name);

/** By number, as bpftool and libbpf spell them. */
export const ATTACH_TYPES = [
  'cgroup_inet_ingress',
  'cgroup_inet_egress',
  'cgroup_inet_sock_create',
  'cgroup_sock_ops',
  'sk_skb_stream_parser',
  'sk_skb_stream_verdict',
  'cgroup_device',
  'sk_msg_verdict',
  'cgroup_inet4_bind',
  'cgroup_inet6_bind',
  'cgroup_inet4_connect',
  'cgroup_inet6_connect',
  'cgroup_inet4_post_bind',
  'cgroup_inet6_post_bind',
  'cgroup_udp4_sendmsg',
  'cgroup_udp6_sendmsg',
  'lirc_mode2',
  'flow_dissector',
  'cgroup_sysctl',
  'cgroup_udp4_recvmsg',
  'cgroup_udp6_recvmsg',
  'cgroup_getsockopt',
  'cgroup_setsockopt',
  'trace_raw_tp',
  'trace_fentry',
  'trace_fexit',
  'modify_return',
  'lsm_mac',
  'trace_iter',
  'cgroup_inet4_getpeername',
  'cgroup_inet6_getpeername',
  'cgroup_inet4_getsockname',
  'cgroup_inet6_getsockname',
  'xdp_devmap',
  'cgroup_inet_sock_release',
  'xdp_cpumap',
  'sk_lookup',
  'xdp',
  'sk_skb_verdict',
  'sk_reuseport_select',
  'sk_reuseport_select_or_migrate',
  'perf_event',
  'trace_kprobe_multi',
  'lsm_cgroup',
  'struct_ops',
  'netfilter',
  'tcx_ingress',
  'tcx_egress',
] as const;
export type AttachTypeName = (typeof ATTACH_TYPES)[number];

const ATTACH_TYPE_NUMBERS = new Map<string, number>(ATTACH_TYPES.map((name, number) => [name, number]));
export const attachTypeNumber = (name: AttachTypeName): number => ATTACH_TYPE_NUMBERS.get(name) ?? -1;
export const attachTypeName = (number: number): string => ATTACH_TYPES[number] ?? `attach_type_${number}`;

const MAP_TYPES = [
  'unspec',
  'hash',
  'array',
  'prog_array',
  'perf_event_array',
  'percpu_hash',
  'percpu_array',
  'stack_trace',
  'cgroup_array',
  'lru_hash',
  'lru_percpu_hash',
  'lpm_trie',
  'array_of_maps',
  'hash_of_maps',
  'devmap',
  'sockmap',
  'cpumap',
  'xskmap',
  'sockhash',
  'cgroup_storage',
  'reuseport_sockarray',
  'percpu_cgroup_storage',
  'queue',
  'stack',
  'sk_storage',
  'devmap_hash',
  'struct_ops',
  'ringbuf',
  'inode_storage',
  'task_storage',
  'bloom_filter',
  'user_ringbuf',
  'cgrp_storage',
  'arena',
];
export const mapTypeName = (number: number): string => MAP_TYPES[number] ?? `type_${number}`;

const SOCK_ADDR_TYPES: Readonly<Record<SockAddrHook, AttachTypeName>> = {
  bind4: 'cgroup_inet4_bind',
  bind6: 'cgroup_inet6_bind',
  connect4: 'cgroup_inet4_connect',
  connect6: 'cgroup_inet6_connect',
  sendmsg4: 'cgroup_udp4_sendmsg',
  sendmsg6: 'cgroup_udp6_sendmsg',
  recvmsg4: 'cgroup_udp4_recvmsg',
  recvmsg6: 'cgroup_udp6_recvmsg',
  getpeername4: 'cgroup_inet4_getpeername',
  getpeername6: 'cgroup_inet6_getpeername',
  getsockname4: 'cgroup_inet4_getsockname',
  getsockname6: 'cgroup_inet6_getsockname',
};
const SOCK_TYPES: Readonly<Record<SockHook, AttachTypeName>> = {
  create: 'cgroup_inet_sock_create',
  release: 'cgroup_inet_sock_release',
  post_bind4: 'cgroup_inet4_post_bind',
  post_bind6: 'cgroup_inet6_post_bind',
};

/** What a program must be loaded as to go to a point. `attachType` absent: the kernel asks for none at load. */
export interface LoadKind {
  type: ProgramType;
  attachType?: AttachTypeName;
}

export const loadKindOf = (point: AttachPoint): LoadKind => {
  switch (point.kind) {
    case 'xdp':
      return { type: 'xdp', attachType: 'xdp' };
    case 'tcx':
    case 'tc':
      return { type: 'sched_cls' };
    case 'cgroup_skb':
      return { type: 'cgroup_skb', attachType: `cgroup_inet_${point.direction}` };
    case 'cgroup_sock':
      return { type: 'cgroup_sock', attachType: SOCK_TYPES[point.hook] };
    case 'cgroup_sock_addr':
      return { type: 'cgroup_sock_addr', attachType: SOCK_ADDR_TYPES[point.hook] };
    case 'cgroup_sockopt':
      return { type: 'cgroup_sockopt', attachType: `cgroup_${point.hook}sockopt` };
    case 'cgroup_sysctl':
      return { type: 'cgroup_sysctl', attachType: 'cgroup_sysctl' };
    case 'cgroup_device':
      return { type: 'cgroup_device', attachType: 'cgroup_device' };
    case 'sock_ops':
      return { type: 'sock_ops', attachType: 'cgroup_sock_ops' };
    case 'tracepoint':
      return { type: 'tracepoint' };
    case 'raw_tracepoint':
      return { type: 'raw_tracepoint' };
    case 'kprobe':
    case 'kretprobe':
    case 'uprobe':
    case 'uretprobe':
      return { type: 'kprobe' };
    case 'fentry':
    case 'fexit':
      return { type: 'tracing', attachType: `trace_${point.kind}` };
    case 'lsm':
      return { type: 'lsm', attachType: 'lsm_mac' };
    case 'perf_event':
      return { type: 'perf_event' };
    case 'socket_filter':
      return { type: 'socket_filter' };
    case 'sk_lookup':
    case 'flow_dissector':
      return { type: point.kind, attachType: point.kind };
    case 'netfilter':
      return { type: 'netfilter', attachType: 'netfilter' };
  }
};

/** The first kernel where each kind can be attached the way it is done here (by a pinnable link, but for tc and socket_filter). */
export const ATTACH_SINCE: Readonly<Record<AttachKind, string>> = {
  xdp: '5.9',
  tcx: '6.6',
  tc: '4.5',
  cgroup_skb: '5.7',
  cgroup_sock: '5.9',
  cgroup_sock_addr: '5.8',
  cgroup_sockopt: '5.7',
  cgroup_sysctl: '5.7',
  cgroup_device: '5.7',
  sock_ops: '5.7',
  tracepoint: '5.15',
  raw_tracepoint: '4.17',
  kprobe: '5.15',
  kretprobe: '5.15',
  uprobe: '5.15',
  uretprobe: '5.15',
  fentry: '5.5',
  fexit: '5.5',
  lsm: '5.7',
  perf_event: '5.15',
  socket_filter: '3.19',
  sk_lookup: '5.9',
  flow_dissector: '5.8',
  netfilter: '6.4',
};

/** The first kernel that loads each program type. */
export const PROGRAM_TYPE_SINCE: Readonly<Record<ProgramType, string>> = {
  socket_filter: '3.19',
  kprobe: '4.1',
  sched_cls: '4.1',
  tracepoint: '4.7',
  xdp: '4.8',
  perf_event: '4.9',
  cgroup_skb: '4.10',
  cgroup_sock: '4.10',
  sock_ops: '4.13',
  cgroup_device: '4.15',
  raw_tracepoint: '4.17',
  cgroup_sock_addr: '4.17',
  flow_dissector: '4.20',
  cgroup_sysctl: '5.2',
  cgroup_sockopt: '5.3',
  tracing: '5.5',
  lsm: '5.7',
  sk_lookup: '5.9',
  netfilter: '6.4',
};

/** Whether kernel `release` ("6.1.0-18-amd64") is older than `since` ("6.6"). */
export const olderThan = (release: string, since: string): boolean => {
  const [major = 0, minor = 0] = release.split('.').map((part) => Number.parseInt(part, 10));
  const [sinceMajor = 0, sinceMinor = 0] = since.split('.').map((part) => Number.parseInt(part, 10));
  return major < sinceMajor || (major === sinceMajor && minor < sinceMinor);
};
