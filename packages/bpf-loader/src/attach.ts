/** Attaching: one function for every kind. By a link wherever the kernel has one, pinned before success is told. */
import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import { checkInteger, checkInterface, checkName, checkPath, checkWord } from './arguments.ts';
import { attachKernelProbe, attachPerfEvents, attachTracepoint, attachUserProbe } from './attach-perf.ts';
import { invalid, LoaderError, toLoaderError } from './errors.ts';
import { ATTACH_SINCE, type AttachTypeName, attachTypeNumber, loadKindOf, olderThan } from './kernel-types.ts';
import { Link } from './link.ts';
import type { LinkHandle } from './loader.ts';
import { addon } from './loader.ts';
import type { Program } from './program.ts';
import { attachTc } from './tc.ts';
import type { AttachPoint } from './types.ts';

type Point<K extends AttachPoint['kind']> = Extract<AttachPoint, { kind: K }>;

export interface AttachOptions {
  /** Where the link is pinned, in a bpf file system whose folders are there. perf_event on every cpu makes one link for each cpu,
   *  pinned at `<pinPath>-<cpu>`. */
  pinPath?: string;
  /** tc only: the program id that stands there and is replaced. */
  replaceProgramId?: number;
}

/** A program at its hook. Disposing releases what the process holds: pinned links stay attached, others are detached. */
export interface Attachment extends Disposable {
  readonly point: AttachPoint;
  /** One; on perf_event with cpu -1 one for each cpu; none on tc and socket_filter. */
  readonly links: readonly Link[];
  readonly pinPaths: readonly string[];
  /** Of tc: the clsact qdisc was missing and made. */
  readonly madeQdisc?: boolean;
}

const XDP_MODES = { auto: 0, generic: 1 << 1, native: 1 << 2, offload: 1 << 3 } as const;

export const attach = async (
  program: Program,
  point: AttachPoint,
  options: AttachOptions = {},
): Promise<Attachment> => {
  const pinPath = options.pinPath === undefined ? '' : checkPath(options.pinPath, 'A pin');
  try {
    if (pinPath !== '' && (point.kind === 'tc' || point.kind === 'socket_filter'))
      throw invalid(`${point.kind} has no link that could be pinned: attach it without pinPath.`);
    switch (point.kind) {
      case 'tc': {
        const { madeQdisc } = await attachTc(program, point, options.replaceProgramId);
        return { point, links: [], pinPaths: [], madeQdisc, [Symbol.dispose]: () => {} };
      }
      case 'socket_filter': {
        const target = { interface: checkInterface(point.interface), netns: netnsOf(point) };
        const hold = await addon().socketAttach(program.handle, target);
        return { point, links: [], pinPaths: [], [Symbol.dispose]: () => addon().close(hold) };
      }
      case 'perf_event':
        return linked(point, await attachPerfEvents(program, point, pinPath));
      default:
        return linked(point, [{ handle: await attachLink(program, point, pinPath), pinPath }]);
    }
  } catch (error) {
    throw attachError(toLoaderError(error), point);
  }
};

const linked = (point: AttachPoint, made: readonly { handle: LinkHandle; pinPath: string }[]): Attachment => {
  const links = made.map(({ handle }) => new Link(handle));
  return {
    point,
    links,
    pinPaths: made.flatMap(({ pinPath }) => (pinPath === '' ? [] : [pinPath])),
    [Symbol.dispose]: () => {
      for (const link of links) link[Symbol.dispose]();
    },
  };
};

const attachLink = async (
  program: Program,
  point: Exclude<AttachPoint, { kind: 'tc' | 'socket_filter' | 'perf_event' }>,
  pinPath: string,
): Promise<LinkHandle> => {
  switch (point.kind) {
    case 'xdp':
      return await addon().attachXdp(
        program.handle,
        {
          interface: checkInterface(point.interface),
          flags: checkWord(XDP_MODES, point.mode, 'mode'),
          netns: netnsOf(point),
        },
        pinPath,
      );
    case 'tcx':
      return await addon().attachTcx(
        program.handle,
        {
          interface: checkInterface(point.interface),
          attachType: attachTypeNumber(`tcx_${point.direction}`),
          ...tcxOrder(point),
          netns: netnsOf(point),
        },
        pinPath,
      );
    case 'cgroup_skb':
    case 'cgroup_sock':
    case 'cgroup_sock_addr':
    case 'cgroup_sockopt':
    case 'cgroup_sysctl':
    case 'cgroup_device':
    case 'sock_ops':
      return await addon().attachCgroup(
        program.handle,
        { name: checkPath(point.cgroup, 'A cgroup'), attachType: attachTypeNumber(attachTypeOf(point)) },
        pinPath,
      );
    case 'sk_lookup':
    case 'flow_dissector':
      return await addon().attachNetns(
        program.handle,
        { name: netnsOf(point), attachType: attachTypeNumber(point.kind) },
        pinPath,
      );
    case 'netfilter':
      return await addon().attachNetfilter(
        program.handle,
        {
          family: checkWord(FAMILIES, point.family, 'family'),
          hook: checkWord(NETFILTER_HOOKS, point.hook, 'hook'),
          priority: checkInteger(point.priority, -(2 ** 31) + 1, 2 ** 31 - 2, 'priority'),
          netns: netnsOf(point),
        },
        pinPath,
      );
    case 'lsm':
      checkLsmActive();
      return await addon().attachTracing(program.handle, { attachType: attachTypeNumber('lsm_mac') }, pinPath);
    case 'fentry':
    case 'fexit':
      return await addon().attachTracing(
        program.handle,
        { attachType: attachTypeNumber(attachTypeOf(point)) },
        pinPath,
      );
    case 'raw_tracepoint':
      // A tracing program (tp_btf) was bound to its tracepoint at load.
      return await addon().attachRawTracepoint(
        program.handle,
        { name: program.type === 'tracing' ? '' : checkName(point.name, 'A tracepoint') },
        pinPath,
      );
    case 'tracepoint':
      return await attachTracepoint(program, point, pinPath);
    case 'kprobe':
    case 'kretprobe':
      return await attachKernelProbe(program, point, pinPath);
    case 'uprobe':
    case 'uretprobe':
      return await attachUserProbe(program, point, pinPath);
    default:
      return unknownKind(point);
  }
};

const unknownKind = (point: never): never => {
  const { kind } = point as { kind: unknown };
  throw invalid(`There is no kind of attachment '${String(kind)}'.`, { kind: String(kind) });
};

const FAMILIES = { ipv4: 2, ipv6: 10 } as const;
const NETFILTER_HOOKS = { prerouting: 0, input: 1, forward: 2, output: 3, postrouting: 4 } as const;

/** A kernel that has BPF LSM and was booted without it takes the program and never runs it. */
const checkLsmActive = (): void => {
  const modules = activeLsms();
  if (modules === null || modules.includes('bpf')) return;
  throw new LoaderError({
    code: 'bpf.unsupported',
    message: `BPF LSM is not active (active: ${modules.join(', ')}): boot with lsm=${[...modules, 'bpf'].join(',')}.`,
    details: { needs: 'lsm=…,bpf' },
  });
};

/** Null: cannot be read (securityfs is not mounted). */
const activeLsms = (): string[] | null => {
  try {
    return readFileSync('/sys/kernel/security/lsm', 'utf8').trim().split(',');
  } catch {
    return null; // then nobody can tell, and the attachment is tried
  }
};

const netnsOf = (point: { netns?: string }): string =>
  point.netns === undefined ? '' : checkPath(point.netns, 'A network namespace');

const attachTypeOf = (point: AttachPoint): AttachTypeName => {
  const { attachType } = loadKindOf(point);
  if (attachType === undefined) throw new TypeError(`${point.kind} has no attach type`);
  return attachType;
};

const BEFORE = 1 << 3;
const AFTER = 1 << 4;
const BY_ID = 1 << 5;

const tcxOrder = ({ order }: Point<'tcx'>): { flags: number; relative: number } => {
  if (order === undefined || order === 'last') return { flags: order === 'last' ? AFTER : 0, relative: 0 };
  if (order === 'first') return { flags: BEFORE, relative: 0 };
  const [flag, id] = 'before' in order ? [BEFORE, order.before] : [AFTER, order.after];
  return { flags: flag | BY_ID, relative: checkInteger(id, 1, 2 ** 32 - 1, 'A program id') };
};

/** A kernel that lacks a kind says EINVAL as it does to a wrong argument: the version tells them apart. */
const attachError = (error: unknown, point: AttachPoint): unknown => {
  if (!(error instanceof LoaderError)) return error;
  const since = ATTACH_SINCE[point.kind];
  const older = error.code === 'bpf.attach_refused' && olderThan(release(), since);
  if (!older && error.code !== 'bpf.unsupported') return error;
  return new LoaderError({
    code: 'bpf.unsupported',
    message: older
      ? `This kernel (${release()}) does not have ${point.kind}: it is there since Linux ${since}.`
      : error.message,
    errno: error.errno,
    details: { ...error.details, since, kind: point.kind, kernel: release() },
  });
};
