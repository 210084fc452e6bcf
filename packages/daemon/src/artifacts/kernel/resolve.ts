import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { AttachPoint } from '@aegis/bpf-loader/types';
import { type AttachTo, describeAttachTo } from '@aegis/protocol/artifacts/attach-point';
import type { Program } from '@aegis/protocol/artifacts/manifest';
import { DeployError } from '../deployment.ts';
import {
  type AttachmentRecord,
  attachmentKey,
  describePoint,
  filterHandle,
  type Place,
  type Wanted,
} from './attachment.ts';
import { pinName } from './layout.ts';
import { defaultRouteInterfaces, isGlob, matchesGlob, type NamespaceFacts } from './network.ts';

/** From what a manifest wishes to the hooks there are. What is not there yet (an interface, a cgroup, a network namespace) waits. */

export interface ResolveOptions {
  /** Node and artifact: several daemons of one machine may attach the same artifact to one interface. */
  owner: string;
  /** Null: there is no such namespace. */
  namespace(netns: string | undefined): Promise<NamespaceFacts | null>;
  /** Where cgroup v2 is mounted; null: nowhere. */
  cgroupRoot: string | null;
  hasTcx: boolean;
  /** What is attached now: a default route that is gone for a moment takes nothing off. */
  records: readonly AttachmentRecord[];
  sys?: string;
}

export interface Waiting {
  program: string;
  hook: string;
  reason: string;
  /** What would have to be there, where it is not an interface or a namespace. */
  path?: string;
}

export interface Resolved {
  wanted: Wanted[];
  waiting: Waiting[];
}

/** @throws DeployError artifacts.unsupported, artifacts.hook_busy, artifacts.attach_failed */
export const resolvePrograms = async (programs: readonly Program[], options: ResolveOptions): Promise<Resolved> => {
  const wanted = new Map<string, Wanted>();
  const waiting: Waiting[] = [];
  for (const program of programs) {
    const points = await pointsOf(program, options);
    if (points.length === 0 || points.waiting)
      waiting.push({
        program: program.name,
        hook: describeAttachTo(program.attach),
        reason: points.waiting ?? '',
        ...(points.path === undefined ? {} : { path: points.path }),
      });
    for (const one of points) {
      const key = attachmentKey(program, one.point);
      const twice = wanted.get(key);
      if (twice && twice.program.name !== program.name)
        throw new DeployError(
          'artifacts.hook_busy',
          `${describePoint(one.point)} holds one program, and this artifact has two for it: '${twice.program.name}' and '${program.name}'. Attach one of them elsewhere.`,
        );
      if (twice) continue;
      const point = one.point.kind === 'tc' ? { ...one.point, handle: filterHandle(options.owner, key) } : one.point;
      wanted.set(key, { ...one, key, program, pin: pinName(program), point });
    }
  }
  return { wanted: [...wanted.values()], waiting };
};

type Found = Pick<Wanted, 'point' | 'place' | 'order' | 'via'>;
type Points = Found[] & { waiting?: string; path?: string };

const waitingFor = (reason: string): Points => Object.assign([], { waiting: reason });
const here = (point: AttachPoint, place: Place = {}): Points => [{ point, place }];

const pointsOf = async (program: Program, options: ResolveOptions): Promise<Points> => {
  const { attach } = program;
  switch (attach.kind) {
    case 'xdp':
    case 'tc':
    case 'socket_filter':
      return onInterfaces(program, attach, options);
    case 'sk_lookup':
    case 'flow_dissector':
    case 'netfilter': {
      const facts = await options.namespace(attach.netns);
      if (!facts) return waitingFor(`There is no network namespace ${attach.netns}.`);
      return here(withNetns(attach), { netns: facts.inode });
    }
    case 'fentry':
    case 'fexit':
    case 'lsm':
      return here({ kind: attach.kind });
    case 'perf_event':
      return onlineCpus(options.sys).map((cpu) => ({
        point: { ...withoutUndefined(attach), cpu, pid: -1 },
        place: {},
      }));
    case 'uprobe':
    case 'uretprobe': {
      const file = statSync(attach.binary, { throwIfNoEntry: false, bigint: true });
      if (!file)
        throw new DeployError(
          'artifacts.attach_failed',
          `There is no file ${attach.binary} for program '${program.name}' on this node: install it or correct the path.`,
        );
      return here(withoutUndefined(attach), { file: `${file.dev}:${file.ino}` });
    }
    case 'tracepoint':
    case 'raw_tracepoint':
    case 'kprobe':
    case 'kretprobe':
      return here(attach);
    default:
      return inCgroup(attach, options.cgroupRoot);
  }
};

type Netted<K extends AttachTo['kind']> = Extract<AttachTo, { kind: K }>;

/** The loader's points name a namespace or have no such member. */
const withNetns = (attach: Netted<'sk_lookup' | 'flow_dissector' | 'netfilter'>): AttachPoint => {
  const { netns, ...rest } = attach;
  return { ...rest, ...(netns === undefined ? {} : { netns }) };
};
type Defined<T> = { [K in keyof T]: Exclude<T[K], undefined> };
const withoutUndefined = <T extends object>(value: T): Defined<T> =>
  Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined)) as Defined<T>;

const onInterfaces = async (
  program: Program,
  attach: Netted<'xdp' | 'tc' | 'socket_filter'>,
  options: ResolveOptions,
): Promise<Points> => {
  const facts = await options.namespace(attach.netns);
  if (!facts) return waitingFor(`There is no network namespace ${attach.netns}.`);
  const { chosen, reason } = interfacesOf(program, attach, facts, options.records);
  if (chosen.length === 0) return waitingFor(reason);
  const netns = attach.netns === undefined ? {} : { netns: attach.netns };
  const plain = chosen.length === 1 && chosen[0]?.name === attach.interface;
  return chosen.map(({ name, index }) => {
    const found: Found = {
      point: interfacePoint(attach, name, netns, options.hasTcx),
      place: { ifindex: index, netns: facts.inode },
    };
    if (found.point.kind === 'tcx' && attach.kind === 'tc')
      found.order = withoutUndefined({ priority: attach.priority, before: attach.before, after: attach.after });
    if (!plain) found.via = attach.interface;
    return found;
  });
};

const interfacePoint = (
  attach: Netted<'xdp' | 'tc' | 'socket_filter'>,
  name: string,
  netns: { netns?: string },
  hasTcx: boolean,
): AttachPoint => {
  if (attach.kind === 'xdp') return { kind: 'xdp', interface: name, mode: attach.mode, ...netns };
  if (attach.kind === 'socket_filter') return { kind: 'socket_filter', interface: name, ...netns };
  const { direction, mechanism, priority } = attach;
  if (mechanism === 'tcx' && !hasTcx)
    throw new DeployError(
      'artifacts.unsupported',
      "This kernel has no tcx (it is there since Linux 6.6): give mechanism 'auto' or 'clsact' in the manifest.",
    );
  const byTcx = mechanism !== 'clsact' && hasTcx;
  return byTcx
    ? { kind: 'tcx', interface: name, direction, ...netns }
    : { kind: 'tc', interface: name, direction, priority, handle: 0, ...netns };
};

const interfacesOf = (
  program: Program,
  attach: Netted<'xdp' | 'tc' | 'socket_filter'>,
  facts: NamespaceFacts,
  records: readonly AttachmentRecord[],
): { chosen: { name: string; index: number }[]; reason: string } => {
  const wish = attach.interface;
  if (wish === 'default-route') {
    const names = defaultRouteInterfaces(facts);
    const held = records
      .filter(({ via, program: pin, place }) => via === wish && pin === pinName(program) && place.netns === facts.inode)
      .map(({ place }) => place.ifindex);
    const chosen = facts.interfaces.filter(({ name, index }) =>
      names.length > 0 ? names.includes(name) : held.includes(index),
    );
    return { chosen, reason: 'There is no default route.' };
  }
  const chosen = facts.interfaces.filter(({ name }) => (isGlob(wish) ? matchesGlob(wish, name) : name === wish));
  return { chosen, reason: isGlob(wish) ? `No interface matches ${wish}.` : `There is no interface ${wish}.` };
};

type InCgroup = Extract<AttachTo, { cgroup: string }>;
const inCgroup = (attach: InCgroup, root: string | null): Points => {
  if (root === null)
    throw new DeployError(
      'artifacts.unsupported',
      'cgroup v2 is not mounted on this node: mount it (mount -t cgroup2 none /sys/fs/cgroup/unified) or boot with systemd.unified_cgroup_hierarchy=1.',
    );
  const cgroup = join(root, attach.cgroup);
  const found = statSync(cgroup, { throwIfNoEntry: false, bigint: true });
  if (!found?.isDirectory()) return Object.assign(waitingFor(`There is no cgroup ${attach.cgroup}.`), { path: cgroup });
  return here({ ...attach, cgroup }, { cgroup: String(found.ino) });
};

/** A mount of the whole hierarchy before one of a part of it; null when cgroup v2 is mounted nowhere. */
export const cgroupMount = (proc = '/proc'): string | null => {
  const found = readFileSync(join(proc, 'self/mountinfo'), 'utf8')
    .split('\n')
    .flatMap((line) => {
      const [before = '', after = ''] = line.split(' - ');
      const [, , , root = '', path = ''] = before.split(' ');
      return after.startsWith('cgroup2 ') ? [{ root, path }] : [];
    });
  const mount = found.find(({ root }) => root === '/') ?? found[0];
  return mount ? unescaped(mount.path) : null;
};
/** Blanks and the like are written as octal numbers. */
const unescaped = (path: string): string =>
  path.replaceAll(/\\(\d{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8)));

/** `0-3,8` of /sys/devices/system/cpu/online. */
export const parseCpus = (text: string): number[] =>
  text
    .trim()
    .split(',')
    .filter(Boolean)
    .flatMap((range) => {
      const [first = 0, last = first] = range.split('-').map(Number);
      return Array.from({ length: last - first + 1 }, (_, at) => first + at);
    });
const onlineCpus = (sys = '/sys'): number[] => parseCpus(readFileSync(join(sys, 'devices/system/cpu/online'), 'utf8'));
