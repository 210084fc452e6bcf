import { existsSync, readFileSync } from 'node:fs';
import { machine, release, tmpdir } from 'node:os';
import { attach } from './attach.ts';
import { DEFAULT_BPFFS, isBpffs } from './bpffs.ts';
import { LoaderError } from './errors.ts';
import { ATTACH_SINCE } from './kernel-types.ts';
import { loaderAvailable } from './loader.ts';
import { loadObject } from './object.ts';
import { cgroup2Mount, scratchBinary, scratchCgroup, scratchNetns } from './probe-places.ts';
import { detachTc } from './tc.ts';
import { TINY_PROGRAM, tinyObject } from './tiny-object.ts';
import type { AttachKind, AttachPoint } from './types.ts';

/** probe: asks this kernel which kinds of attachment it has, by loading a program of two instructions for each and attaching it where
 *  it touches nothing: a network namespace, a cgroup and a file of its own. Called by the daemon once a boot (`aegis nodes show`).
 *  Invariant: nothing is left behind, also when a step fails. It must not attach to an interface, cgroup or process of others. */

export interface KindReport {
  works: boolean;
  /** Why not. */
  reason?: string;
  /** The first kernel that has the kind the way it is attached here; said where it does not work. */
  since?: string;
}

export interface KernelReport {
  release: string;
  /** As `uname -m` says it. */
  architecture: string;
  /** The kernel brings its own BTF: CO-RE, fentry, fexit and lsm need it. */
  btf: boolean;
  /** A bpf file system is mounted where pins go. */
  bpffs: boolean;
  /** Where cgroup v2 is mounted. */
  cgroup2: string | null;
  jit: boolean;
  /** Processes without capabilities may not load programs. */
  unprivilegedDisabled: boolean;
  kinds: Record<AttachKind, KindReport>;
}

interface Places {
  /** Empty where no scratch namespace can be had: kinds of the network are then loaded only. */
  netns: string | null;
  cgroup: string | null;
  binary: string;
}

/** What each kind is tried with, and what its program returns: "go on as if I were not there". */
interface Trial {
  point: AttachPoint | null;
  returned: number;
  attachTo?: string;
}

export const probeKernel = async ({ temporary = tmpdir() } = {}): Promise<KernelReport> => {
  const mount = cgroup2Mount();
  const unavailable = loaderAvailable().reason;
  const kinds =
    unavailable === undefined ? await probeKinds(mount, temporary) : everyKind({ works: false, reason: unavailable });
  return {
    release: release(),
    architecture: machine(),
    btf: existsSync('/sys/kernel/btf/vmlinux'),
    bpffs: isBpffs(DEFAULT_BPFFS),
    cgroup2: mount,
    jit: await compiles(),
    unprivilegedDisabled: setting('/proc/sys/kernel/unprivileged_bpf_disabled') > 0,
    kinds,
  };
};

/** Whether a program becomes machine code. The setting itself (net.core.bpf_jit_enable) is not to be seen within a network namespace, and a
 *  kernel that always compiles need not have it. */
const compiles = async (): Promise<boolean> => {
  try {
    const programs = [{ name: TINY_PROGRAM, attach: bareType('socket_filter') }];
    using object = await loadObject(tinyObject(0), { name: 'aegis_probe', programs });
    return object.program(TINY_PROGRAM).info().jitedBytes > 0;
  } catch {
    return setting('/proc/sys/net/core/bpf_jit_enable') > 0; // nothing can be loaded here: what the setting says, where it can be read
  }
};

const KINDS = Object.keys(ATTACH_SINCE) as AttachKind[];

const everyKind = (report: KindReport): Record<AttachKind, KindReport> =>
  Object.fromEntries(KINDS.map((kind) => [kind, report])) as Record<AttachKind, KindReport>;

const probeKinds = async (mount: string | null, temporary: string): Promise<Record<AttachKind, KindReport>> => {
  await using stack = new AsyncDisposableStack();
  const netns = await scratchNetns().then((place) => stack.use(place).path, nothing);
  const cgroup =
    mount === null
      ? null
      : await Promise.resolve(mount)
          .then(scratchCgroup)
          .then((place) => stack.use(place).path, nothing);
  const places: Places = { netns, cgroup, binary: stack.use(scratchBinary(temporary)).path };
  const reports = everyKind({ works: false });
  for (const kind of KINDS) reports[kind] = await probeKind(kind, trialOf(kind, places), mount);
  return reports;
};

/** A place that cannot be had (rights, a container): its kinds are tried as far as loading goes. */
const nothing = (): null => null;

const probeKind = async (
  kind: AttachKind,
  { point, returned, attachTo }: Trial,
  mount: string | null,
): Promise<KindReport> => {
  if (CGROUP_KINDS.has(kind) && mount === null) return { works: false, reason: 'No cgroup v2 hierarchy is mounted.' };
  if (kind === 'lsm' && lsmIsOff()) return { works: false, reason: 'The kernel was started without lsm=…,bpf.' };
  try {
    const spec = { name: TINY_PROGRAM, attach: point ?? bareType(kind), ...(attachTo ? { attachTo } : {}) };
    using object = await loadObject(tinyObject(returned), { name: 'aegis_probe', programs: [spec] });
    const program = object.program(TINY_PROGRAM);
    if (!point) return { works: true };
    using _attachment = await attach(program, point);
    if (point.kind === 'tc') await detachTc(point, program.id, { removeQdisc: true });
    return { works: true };
  } catch (error) {
    if (!(error instanceof LoaderError)) throw error;
    if (SHOWS_THAT_IT_WORKS.has(error.code)) return { works: true };
    return { works: false, reason: error.message, since: ATTACH_SINCE[kind] };
  }
};

/** The hook is there: taken by another, or without the function that was picked for the trial. */
const SHOWS_THAT_IT_WORKS: ReadonlySet<string> = new Set(['bpf.hook_busy', 'bpf.no_such_target']);

const CGROUP_KINDS: ReadonlySet<AttachKind> = new Set([
  'cgroup_skb',
  'cgroup_sock',
  'cgroup_sock_addr',
  'cgroup_sockopt',
  'cgroup_sysctl',
  'cgroup_device',
  'sock_ops',
]);

const XDP_PASS = 2;
const TCX_NEXT = -1;
const ALLOW = 1;

const trialOf = (kind: AttachKind, { netns, cgroup, binary }: Places): Trial => {
  const lo = netns === null ? null : { interface: 'lo', netns };
  const inNetns = netns === null ? null : { netns };
  const inCgroup = cgroup === null ? null : { cgroup };
  switch (kind) {
    case 'xdp':
      return { point: lo && { kind, mode: 'generic', ...lo }, returned: XDP_PASS };
    case 'tcx':
      return { point: lo && { kind, direction: 'ingress', ...lo }, returned: TCX_NEXT };
    case 'tc':
      return { point: lo && { kind, direction: 'ingress', priority: 1, handle: 1, ...lo }, returned: TCX_NEXT };
    case 'socket_filter':
      return { point: lo && { kind, ...lo }, returned: 0 };
    case 'sk_lookup':
      return { point: inNetns && { kind, ...inNetns }, returned: ALLOW };
    case 'flow_dissector':
      return { point: inNetns && { kind, ...inNetns }, returned: 0 };
    case 'netfilter':
      return { point: inNetns && { kind, family: 'ipv4', hook: 'input', priority: 1, ...inNetns }, returned: ALLOW };
    case 'cgroup_skb':
      return { point: inCgroup && { kind, direction: 'egress', ...inCgroup }, returned: ALLOW };
    case 'cgroup_sock':
      return { point: inCgroup && { kind, hook: 'create', ...inCgroup }, returned: ALLOW };
    case 'cgroup_sock_addr':
      return { point: inCgroup && { kind, hook: 'connect4', ...inCgroup }, returned: ALLOW };
    case 'cgroup_sockopt':
      return { point: inCgroup && { kind, hook: 'set', ...inCgroup }, returned: ALLOW };
    case 'cgroup_sysctl':
    case 'cgroup_device':
    case 'sock_ops':
      return { point: inCgroup && { kind, ...inCgroup }, returned: ALLOW };
    case 'tracepoint':
      return { point: { kind, category: 'sched', name: 'sched_process_exit' }, returned: 0 };
    case 'raw_tracepoint':
      return { point: { kind, name: 'sched_process_exit' }, returned: 0 };
    case 'kprobe':
    case 'kretprobe':
      return { point: { kind, symbol: 'vfs_unlink', offset: 0 }, returned: 0 };
    case 'uprobe':
    case 'uretprobe':
      return { point: { kind, binary, offset: 64 }, returned: 0 };
    case 'fentry':
    case 'fexit':
      return { point: { kind }, returned: 0, attachTo: 'vfs_unlink' };
    case 'lsm':
      return { point: { kind }, returned: 0, attachTo: 'path_chroot' };
    case 'perf_event':
      // Once an hour of CPU time.
      return { point: { kind, event: 'cpu_clock', period: 3_600_000_000_000, cpu: 0, pid: -1 }, returned: 0 };
  }
};

/** A point of the kind that nothing is attached to, for its program and attach type. */
const bareType = (kind: AttachKind): AttachPoint => {
  const { point } = trialOf(kind, { netns: '/proc/self/ns/net', cgroup: '/sys/fs/cgroup', binary: '/' });
  if (!point) throw new TypeError(`no trial for ${kind}`);
  return point;
};

/** Where /sys/kernel/security says so; elsewhere the attempt decides. */
const lsmIsOff = (): boolean => {
  const modules = text('/sys/kernel/security/lsm');
  return modules !== '' && !modules.trim().split(',').includes('bpf');
};

const setting = (path: string): number => Number(text(path) || 0);

const text = (path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return ''; // not on this kernel
  }
};
