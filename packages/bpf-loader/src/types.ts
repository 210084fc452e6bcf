/** bpf-loader: loads eBPF objects from memory through libbpf, attaches them by pinned links, and reads the kernel's own account of
 *  what is loaded and attached. Called by the daemon's artifacts domain and by `aegis artifacts inspect`; usable alone.
 *  Invariant: what is loaded is the bytes that were given, never a path that is opened again; what a handle owns is released when
 *  it is disposed, what is pinned stays. It must not know manifests, the network or the journal. */

/** The kernel's names, as bpftool prints them. */
export const PROGRAM_TYPES = [
  'socket_filter',
  'kprobe',
  'sched_cls',
  'tracepoint',
  'xdp',
  'perf_event',
  'cgroup_skb',
  'cgroup_sock',
  'sock_ops',
  'cgroup_device',
  'raw_tracepoint',
  'cgroup_sock_addr',
  'flow_dissector',
  'cgroup_sysctl',
  'cgroup_sockopt',
  'tracing',
  'lsm',
  'sk_lookup',
  'netfilter',
] as const;
export type ProgramType = (typeof PROGRAM_TYPES)[number];

export type Direction = 'ingress' | 'egress';
export const SOCK_ADDR_HOOKS = [
  'bind4',
  'bind6',
  'connect4',
  'connect6',
  'sendmsg4',
  'sendmsg6',
  'recvmsg4',
  'recvmsg6',
  'getpeername4',
  'getpeername6',
  'getsockname4',
  'getsockname6',
] as const;
export type SockAddrHook = (typeof SOCK_ADDR_HOOKS)[number];
export const SOCK_HOOKS = ['create', 'release', 'post_bind4', 'post_bind6'] as const;
export type SockHook = (typeof SOCK_HOOKS)[number];

/** Where one program goes. `interface` is one name here: globs and `default-route` are resolved by the caller.
 *  `netns` is the path of a network namespace (`/run/netns/x`); absent: the process's own. */
export type AttachPoint =
  | { kind: 'xdp'; interface: string; mode: 'auto' | 'native' | 'generic' | 'offload'; netns?: string }
  | {
      kind: 'tcx';
      interface: string;
      direction: Direction;
      /** Relative to another program's id in the same hook. Absent: at the tail. */
      order?: { before: number } | { after: number } | 'first' | 'last';
      netns?: string;
    }
  /** clsact on kernels without tcx: a filter in direct action; replaced by handle. */
  | { kind: 'tc'; interface: string; direction: Direction; priority: number; handle: number; netns?: string }
  | { kind: 'cgroup_skb'; cgroup: string; direction: Direction }
  | { kind: 'cgroup_sock'; cgroup: string; hook: SockHook }
  | { kind: 'cgroup_sock_addr'; cgroup: string; hook: SockAddrHook }
  | { kind: 'cgroup_sockopt'; cgroup: string; hook: 'get' | 'set' }
  | { kind: 'cgroup_sysctl'; cgroup: string }
  | { kind: 'cgroup_device'; cgroup: string }
  | { kind: 'sock_ops'; cgroup: string }
  | { kind: 'tracepoint'; category: string; name: string }
  | { kind: 'raw_tracepoint'; name: string }
  | { kind: 'kprobe' | 'kretprobe'; symbol: string; offset: number }
  | { kind: 'uprobe' | 'uretprobe'; binary: string; symbol?: string; offset: number; pid?: number }
  /** The function or hook is bound at load: ProgramSpec.attachTo. */
  | { kind: 'fentry' | 'fexit' | 'lsm' }
  | {
      kind: 'perf_event';
      event: 'cpu_clock' | 'task_clock' | 'page_faults' | 'context_switches' | 'cpu_cycles' | 'instructions';
      /** Events between two runs; or, with `frequency`, runs a second. */
      period?: number;
      frequency?: number;
      /** -1: every cpu (one perf event each). */
      cpu: number;
      pid: number;
    }
  /** A raw packet socket that the process holds: gone with it. */
  | { kind: 'socket_filter'; interface: string; netns?: string }
  | { kind: 'sk_lookup' | 'flow_dissector'; netns?: string }
  | {
      kind: 'netfilter';
      family: 'ipv4' | 'ipv6';
      hook: 'prerouting' | 'input' | 'forward' | 'output' | 'postrouting';
      priority: number;
      netns?: string;
    };
export type AttachKind = AttachPoint['kind'];

export interface ProgramSpec {
  /** The C function's name. */
  name: string;
  /** What section names cannot say, or say wrongly. The kind gives both program type and expected attach type. */
  attach?: AttachPoint;
  type?: ProgramType;
  /** Of fentry, fexit: the kernel function; of lsm: the hook. Default: from the section name. */
  attachTo?: string;
}

export interface MapSpec {
  name: string;
  /** A pin that is used again when it is there and compatible, and made when it is not. */
  pinPath?: string;
  maxEntries?: number;
}

export interface LoadOptions {
  /** The object's name, for the kernel's names of its global data ("name.rodata"). Default "object". */
  name?: string;
  /** Only these are loaded; absent: all. */
  programs?: readonly ProgramSpec[];
  /** Bytes of globals in .rodata (or .data), by C name; their length must be the variable's. */
  globals?: ReadonlyMap<string, Uint8Array>;
  maps?: readonly MapSpec[];
  /** BTF of this kernel for CO-RE, where the kernel brings none. */
  kernelBtf?: Uint8Array;
  /** Bytes that the verifier's log of one program may take, default 16 MiB. */
  logLimitBytes?: number;
}

export interface ProgramInfo {
  id: number;
  name: string;
  type: ProgramType | `type_${number}`;
  /** 16 hex digits: the kernel's hash of the instructions. */
  tag: string;
  mapIds: number[];
  btfId: number;
  /** Unix time in milliseconds. */
  loadedAt: number;
  /** Zero unless BPF statistics are on. */
  runCount: number;
  runTimeNs: number;
  instructions: number;
  jitedBytes: number;
  verifiedInstructions: number;
  memlockBytes: number;
}

export interface MapInfo {
  id: number;
  name: string;
  type: string;
  keySize: number;
  valueSize: number;
  maxEntries: number;
  flags: number;
  btfId: number;
  btfKeyTypeId: number;
  btfValueTypeId: number;
  frozen: boolean;
  memlockBytes: number;
  /** Bytes of one value as it is read and written; of a per-CPU map of all possible CPUs. */
  elementBytes: number;
  /** Possible CPUs of a per-CPU map, 0 of others. */
  cpus: number;
}

/** The kernel's account of a link: where it really is. Fields that a kind does not have are absent. */
export interface LinkInfo {
  id: number;
  kind: string;
  programId: number;
  ifindex?: number;
  attachType?: string;
  /** cgroup v2 id (inode number). */
  cgroupId?: bigint;
  netnsInode?: number;
  name?: string;
  family?: string;
  hook?: string;
  priority?: number;
  offset?: bigint;
}

/** What an object says of itself, read without loading anything. */
export interface ObjectReport {
  license: string;
  programs: {
    name: string;
    section: string;
    /** Absent when the section name does not tell it: then a ProgramSpec must. */
    type?: ProgramType | `type_${number}`;
    attachType?: string;
    instructions: number;
  }[];
  maps: {
    /** Of globals the section (".rodata"). */
    name: string;
    type: string;
    keySize: number;
    valueSize: number;
    maxEntries: number;
    flags: number;
    internal: boolean;
    /** The object asks for LIBBPF_PIN_BY_NAME; the loader leaves pins to MapSpec.pinPath. */
    pinByName: boolean;
  }[];
  globals: {
    name: string;
    section: string;
    offset: number;
    size: number;
    /** In the object's own BTF. */
    typeId: number;
    typeName: string;
    initial: Buffer;
  }[];
  /** What it refers to in the kernel: functions and variables (.ksyms), settings of its configuration (.kconfig). */
  externs: { name: string; function: boolean; section: string }[];
  /** Of the externs: kfuncs, kernel variables, settings. */
  kernelFunctions: string[];
  kernelVariables: string[];
  kernelConfig: string[];
  hasBtf: boolean;
  hasBtfExt: boolean;
  coreRelocations: number;
  needsKernelBtf: boolean;
  /** The bytes of .BTF. */
  btf?: Buffer;
}

export type LoaderErrorCode =
  | 'bpf.bad_object' // not an eBPF object that libbpf reads
  | 'bpf.unknown_section' // its type cannot be told: give type or attach
  | 'bpf.unknown_program'
  | 'bpf.unknown_map'
  | 'bpf.unknown_global' // details.known lists those there are
  | 'bpf.bad_global' // wrong size
  | 'bpf.missing_btf'
  | 'bpf.map_mismatch' // a kept or shared map is not of the shape that the object wants
  | 'bpf.map_failed'
  | 'bpf.verifier_rejected' // reason is the verifier's last line, log is all of it
  | 'bpf.not_permitted'
  | 'bpf.unsupported' // by this kernel; details.since names the first that has it, where known
  | 'bpf.hook_busy' // details.programId, details.name: the owner
  | 'bpf.no_such_target' // interface, cgroup, symbol, binary, tracepoint, namespace
  | 'bpf.attach_refused'
  | 'bpf.pin_failed'
  | 'bpf.not_found'
  | 'bpf.invalid'
  | 'bpf.failed';

export interface LoaderErrorFields {
  code: LoaderErrorCode;
  message: string;
  /** Positive errno, 0 where there is none. */
  errno: number;
  program?: string;
  /** The verifier's reason line. */
  reason?: string;
  /** The verifier's whole log. */
  log?: string;
  details: Readonly<Record<string, unknown>>;
}
