import { lstatSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { openProgram } from '@aegis/bpf-loader/program';
import type { ProgramInfo } from '@aegis/bpf-loader/types';
import type { AttachmentReport } from '@aegis/protocol/artifacts/status';
import type { Deployment } from '../deployment.ts';
import type { Wanted } from './attachment.ts';
import { type ArtifactPaths, key16, type Layout, type RevisionPaths } from './layout.ts';
import type { Network } from './network.ts';
import { filterProgram, isDetached, linkAt } from './observe.ts';
import { isThere } from './pin-folders.ts';
import { attachedReport, type DescribedMap, waitingReport } from './reports.ts';
import type { Waiting } from './resolve.ts';
import type { HeldSockets } from './sockets.ts';

/** The short way: what is expected after a finished deployment, compared with the kernel. Anything otherwise, or a changed world
 *  (interfaces, routes, files), answers null, and the long way looks for the reason. Nothing is changed here. */

export interface Settled {
  revision: string;
  wanted: readonly Wanted[];
  waiting: readonly Waiting[];
  maps: readonly DescribedMap[];
  /** Link ids by key, as they were made. */
  links: ReadonlyMap<string, number>;
  /** By pin, as last read: of what is told only the counts change, and these only while they are counted. */
  programs: Map<string, ProgramInfo>;
  /** Pins of programs and maps with their inodes: one that was exchanged has another. */
  pins: ReadonlyMap<string, number>;
  /** Of each namespace: what the wishes were resolved from. */
  worlds: ReadonlyMap<string, string>;
}

export interface SettledOptions {
  layout: Layout;
  paths: ArtifactPaths;
  revision: RevisionPaths;
  sockets: HeldSockets;
  network: Network;
  /** Whether runs and run time are counted. */
  counting(): boolean;
}

/** Namespaces in which something is attached by interface or netfilter hook. */
export const namespacesOf = ({ programs }: Pick<Deployment, 'programs'>): (string | undefined)[] => {
  const found = new Set<string | undefined>();
  for (const { attach } of programs)
    if ('interface' in attach || ['sk_lookup', 'flow_dissector', 'netfilter'].includes(attach.kind))
      found.add('netns' in attach ? attach.netns : undefined);
  return [...found];
};

const inodeOf = (path: string): number | null => lstatSync(path, { throwIfNoEntry: false })?.ino ?? null;

/** Null: something changed while it was written down. */
export const settledState = async (
  options: SettledOptions,
  deployment: Deployment,
  found: {
    wanted: readonly Wanted[];
    waiting: readonly Waiting[];
    maps: readonly DescribedMap[];
    programs: Map<string, ProgramInfo>;
  },
  worlds: ReadonlyMap<string, string>,
): Promise<Settled | null> => {
  const { paths, layout, revision } = options;
  const links = new Map<string, number>();
  for (const { key, point } of found.wanted) {
    if (point.kind === 'tc' || point.kind === 'socket_filter') continue;
    const link = linkAt(join(paths.links, key));
    if (!link) return null;
    links.set(key, link.id);
  }
  const pins = new Map<string, number>();
  const expected = [
    ...[...found.programs.keys()].map((pin) => join(revision.programs, pin)),
    ...found.maps.map(({ pin }) => join(revision.maps, pin)),
    ...deployment.maps.flatMap(({ name, keep, share }) =>
      share !== undefined ? [join(layout.shared, key16(share))] : keep ? [join(paths.kept, key16(name))] : [],
    ),
  ];
  for (const path of expected) {
    const inode = inodeOf(path);
    if (inode === null) return null;
    pins.set(path, inode);
  }
  return { revision: deployment.revision, ...found, links, pins, worlds };
};

/** The reports of what is as expected; null when anything is not. */
export const checkSettled = async (options: SettledOptions, settled: Settled): Promise<AttachmentReport[] | null> => {
  if (settled.waiting.some(({ path }) => path !== undefined && isThere(path))) return null;
  for (const [netns, world] of settled.worlds)
    if ((await options.network.recent(netns === '' ? undefined : netns)).text !== world) return null;
  for (const [path, inode] of settled.pins) if (inodeOf(path) !== inode) return null;
  if (options.counting() && !readCounts(options, settled)) return null;
  const reports: AttachmentReport[] = [];
  for (const wanted of settled.wanted) {
    const info = settled.programs.get(wanted.pin);
    if (!info) return null;
    const link = await holds(options, settled, wanted, info.id);
    if (link === false) return null;
    reports.push(attachedReport(wanted, link, info));
  }
  return reports;
};

/** False: a program is not there any more. */
const readCounts = ({ revision }: SettledOptions, { programs }: Settled): boolean => {
  for (const [pin, { id }] of programs) {
    try {
      using program = openProgram(join(revision.programs, pin));
      const info = program.info();
      if (info.id !== id) return false;
      programs.set(pin, info);
    } catch {
      return false; // the long way says what is wrong with it
    }
  }
  return true;
};

/** False: not as expected. Null: attached, by something that is no link. */
const holds = async (
  { paths, sockets }: SettledOptions,
  { links }: Settled,
  { key, point, place }: Wanted,
  programId: number,
): Promise<{ id: number } | null | false> => {
  const path = join(paths.links, key);
  if (point.kind === 'tc') return (await filterProgram(point)) === programId ? null : false;
  if (point.kind === 'socket_filter') return sockets.get(path)?.programId === programId ? null : false;
  if ((point.kind === 'uprobe' || point.kind === 'uretprobe') && fileOf(point.binary) !== place.file) return false;
  if ('cgroup' in point && inodeText(point.cgroup) !== place.cgroup) return false;
  const link = linkAt(path);
  if (!link || link.id !== links.get(key) || link.programId !== programId || isDetached(link)) return false;
  if (link.ifindex !== undefined && link.ifindex !== place.ifindex) return false;
  return link;
};

/** A cgroup's id; its links outlive a removed one for a while. */
const inodeText = (path: string): string | null =>
  statSync(path, { throwIfNoEntry: false, bigint: true })?.ino.toString() ?? null;

const fileOf = (path: string): string | null => {
  const found = statSync(path, { throwIfNoEntry: false, bigint: true });
  return found ? `${found.dev}:${found.ino}` : null;
};

export const waitingReports = ({ waiting }: Pick<Settled, 'waiting'>): AttachmentReport[] => waiting.map(waitingReport);
