import { join } from 'node:path';
import { openLink } from '@aegis/bpf-loader/link';
import { queryTc } from '@aegis/bpf-loader/tc';
import type { LinkInfo } from '@aegis/bpf-loader/types';
import { type AttachmentRecord, parseRecord, samePlace, type Wanted } from './attachment.ts';
import { isLoaderError } from './failure.ts';
import type { ArtifactPaths } from './layout.ts';
import { listFolder, readRecord } from './pin-folders.ts';
import type { HeldSockets } from './sockets.ts';

/** What the kernel holds of one artifact's attachments. */

export interface Observed {
  /** With `-next` while it is replacing another. */
  name: string;
  record: AttachmentRecord | null;
  /** absent: there is a record or nothing; detached: the link is there, its interface, cgroup or namespace is not. */
  state: 'absent' | 'detached' | 'attached';
  /** 0 unless attached. */
  programId: number;
  link?: LinkInfo;
}

export const observe = async (paths: ArtifactPaths, sockets: HeldSockets): Promise<Map<string, Observed>> => {
  const names = new Set([...listFolder(paths.links), ...listFolder(paths.records)]);
  const found = new Map<string, Observed>();
  for (const name of [...names].filter((one) => !one.endsWith('-w')).sort())
    found.set(name, await observeOne(paths, name, sockets));
  return found;
};

const observeOne = async (paths: ArtifactPaths, name: string, sockets: HeldSockets): Promise<Observed> => {
  const record = parseRecord(readRecord(join(paths.records, name)));
  if (record?.point.kind === 'tc') {
    const programId = await filterProgram(record.point);
    return { name, record, state: programId === 0 ? 'absent' : 'attached', programId };
  }
  const path = join(paths.links, name);
  if (record?.point.kind === 'socket_filter') {
    const held = sockets.get(path);
    return { name, record, state: held ? 'attached' : 'absent', programId: held?.programId ?? 0 };
  }
  const link = linkAt(path);
  if (!link) return { name, record, state: 'absent', programId: 0 };
  const attached = !isDetached(link);
  return { name, record, state: attached ? 'attached' : 'detached', programId: attached ? link.programId : 0, link };
};

/** 0: none, also where the interface or namespace is gone. */
export const filterProgram = async (point: Parameters<typeof queryTc>[0]): Promise<number> => {
  try {
    return await queryTc(point);
  } catch (error) {
    if (isLoaderError(error, 'bpf.no_such_target')) return 0;
    throw error;
  }
};

/** Null: no pin, or a pin of something else. */
export const linkAt = (path: string): LinkInfo | null => {
  try {
    using link = openLink(path);
    return link.info();
  } catch (error) {
    if (isLoaderError(error, 'bpf.not_found', 'bpf.invalid')) return null;
    throw error;
  }
};

export const isDetached = ({ ifindex, cgroupId, netnsInode }: LinkInfo): boolean =>
  ifindex === 0 || cgroupId === 0n || netnsInode === 0;

/** Whether it is at the hook, and in the order, that is wished. The program in it is another question. */
export const standsWhereWished = (found: Observed, wanted: Wanted): boolean => {
  const { record, link } = found;
  if (found.state !== 'attached') return false;
  // A lost record says nothing against a link; it is written again.
  if (record && !samePlace(record.place, wanted.place)) return false;
  if (record && JSON.stringify(record.order) !== JSON.stringify(wanted.order)) return false;
  return (
    link === undefined ||
    ((link.ifindex === undefined || link.ifindex === wanted.place.ifindex) &&
      (link.cgroupId === undefined || String(link.cgroupId) === wanted.place.cgroup) &&
      (link.netnsInode === undefined || link.netnsInode === wanted.place.netns))
  );
};
