import type { AttachPoint } from '@aegis/bpf-loader/types';
import type { Program } from '@aegis/protocol/artifacts/manifest';
import * as z from 'zod/mini';
import { key16, pinName } from './layout.ts';

/** One program at one concrete hook, as it is wished, and the record of it that stands beside its link. */

export interface Wanted {
  /** The link's name: program and hook, but not what may change while the hook stays. */
  key: string;
  program: Program;
  /** The program's pin in a revision. */
  pin: string;
  point: AttachPoint;
  place: Place;
  /** tcx: the wish for its order, as the manifest gives it. */
  order?: { priority: number; before?: string | undefined; after?: string | undefined };
  /** The wish through which it came here, where that is no plain name. */
  via?: string;
}

/** Where a hook really is: names are used again after their owner is gone. */
const Place = z.object({
  ifindex: z.optional(z.int()),
  /** Inode of the network namespace. */
  netns: z.optional(z.int()),
  /** cgroup v2 id, in decimal. */
  cgroup: z.optional(z.string()),
  /** Device and inode of a probed file. */
  file: z.optional(z.string()),
});
export type Place = z.infer<typeof Place>;

const Record = z.object({
  program: z.string(),
  point: z.looseObject({ kind: z.string() }),
  place: Place,
  order: z.optional(z.object({ priority: z.int(), before: z.optional(z.string()), after: z.optional(z.string()) })),
  via: z.optional(z.string()),
  artifact: z.string(),
});
export interface AttachmentRecord {
  artifact: string;
  program: string;
  point: AttachPoint;
  place: Place;
  order?: Wanted['order'];
  via?: string;
}

export const recordText = (artifact: string, { program, point, place, order, via }: Wanted): string => {
  const record: AttachmentRecord = { artifact, program: pinName(program), point, place };
  if (order) record.order = order;
  if (via) record.via = via;
  return JSON.stringify(record);
};

/** Null: not one of ours, or of a release that wrote them otherwise. */
export const parseRecord = (text: string | null): AttachmentRecord | null => {
  if (text === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  const parsed = z.safeParse(Record, value);
  // The point was written by recordText from an AttachPoint, in a folder that only this user can write to.
  return parsed.success ? (parsed.data as unknown as AttachmentRecord) : null;
};

/** One program to a hook: the program's name is no part of the key, so that a renamed program takes the hook over without a gap. */
const EXCLUSIVE: ReadonlySet<string> = new Set(['xdp', 'flow_dissector']);

export const attachmentKey = (program: Pick<Program, 'name' | 'object'>, point: AttachPoint): string => {
  const stays: Readonly<Record<string, unknown>> = { ...point };
  const parts = Object.entries(stays)
    .filter(([name]) => !['mode', 'order', 'handle'].includes(name))
    .sort(([a], [b]) => (a < b ? -1 : 1));
  return key16(EXCLUSIVE.has(point.kind) ? '' : pinName(program), JSON.stringify(parts));
};

/** Handles of clsact filters follow from owner and key, so that a crash leaves nothing that is not known. */
export const filterHandle = (owner: string, key: string): number =>
  Number.parseInt(key16(owner, key).slice(0, 8), 16) & 0x7fff_ffff || 1;

/** Whether the kernel puts another program into such a link at once. Others overlap for a moment: new before old. */
export const updatesAtOnce = ({ kind }: AttachPoint): boolean =>
  kind === 'xdp' ||
  kind === 'tcx' ||
  kind === 'tc' ||
  kind === 'sock_ops' ||
  kind.startsWith('cgroup_') ||
  kind === 'sk_lookup' ||
  kind === 'flow_dissector';

export const samePlace = (a: Place, b: Place): boolean =>
  a.ifindex === b.ifindex && a.netns === b.netns && a.cgroup === b.cgroup && a.file === b.file;

/** For people: `xdp on eth0`. */
export const describePoint = (point: AttachPoint): string => {
  const within = 'netns' in point && point.netns ? ` in ${point.netns}` : '';
  switch (point.kind) {
    case 'xdp':
    case 'socket_filter':
      return `${point.kind} on ${point.interface}${within}`;
    case 'tcx':
    case 'tc':
      return `${point.kind === 'tcx' ? 'tcx' : 'clsact'} ${point.direction} on ${point.interface}${within}`;
    case 'cgroup_skb':
      return `cgroup_skb ${point.direction} in ${point.cgroup}`;
    case 'cgroup_sock':
    case 'cgroup_sock_addr':
    case 'cgroup_sockopt':
      return `${point.kind} ${point.hook} in ${point.cgroup}`;
    case 'cgroup_sysctl':
    case 'cgroup_device':
    case 'sock_ops':
      return `${point.kind} in ${point.cgroup}`;
    case 'tracepoint':
      return `tracepoint ${point.category}:${point.name}`;
    case 'raw_tracepoint':
      return `raw_tracepoint ${point.name}`;
    case 'kprobe':
    case 'kretprobe':
      return `${point.kind} ${point.symbol}${point.offset ? `+${point.offset}` : ''}`;
    case 'uprobe':
    case 'uretprobe':
      return `${point.kind} ${point.binary}:${point.symbol ?? ''}${point.offset ? `+${point.offset}` : ''}`;
    case 'perf_event':
      return `perf_event ${point.event} on cpu ${point.cpu}`;
    case 'netfilter':
      return `netfilter ${point.family} ${point.hook} at ${point.priority}${within}`;
    case 'sk_lookup':
    case 'flow_dissector':
      return `${point.kind}${within}`;
    default:
      return point.kind;
  }
};
