import { constants } from 'node:os';
import { join } from 'node:path';
import { type Attachment, attach } from '@aegis/bpf-loader/attach';
import { hookState } from '@aegis/bpf-loader/kernel';
import { type Link, openLink } from '@aegis/bpf-loader/link';
import { type Program, programById } from '@aegis/bpf-loader/program';
import { detachTc } from '@aegis/bpf-loader/tc';
import type { AttachPoint } from '@aegis/bpf-loader/types';
import { pause } from '../../platform/clock.ts';
import { DeployError } from '../deployment.ts';
import { describePoint, type Place, recordText, type Wanted } from './attachment.ts';
import { busyError, deployError, isLoaderError } from './failure.ts';
import { type ArtifactPaths, key16, type Layout, NEXT } from './layout.ts';
import { filterProgram, isDetached, linkAt, type Observed } from './observe.ts';
import { type Neighbour, tcxPlace } from './order.ts';
import { isThere, movePin, ownFolder, RECORD_BYTES, readRecord, removePin, writeRecord } from './pin-folders.ts';
import { whereNow } from './renamed.ts';
import { closeSocket, type HeldSockets } from './sockets.ts';
import { DEFAULT_PRIORITY, type Tenants, tcxTenantOf } from './tenants.ts';

/** One attachment: made, given another program, moved into another's place, taken off. Each can be undone. */

export interface HookOptions {
  layout: Layout;
  artifact: string;
  paths: ArtifactPaths;
  sockets: HeldSockets;
  tenants: Tenants;
  /** Runs a step between two points at which the process may die. */
  step<T>(name: string, work: () => T): T;
}

export interface Change {
  undo(): void | Promise<void>;
  /** It stays: releases what undoing would have needed. */
  done(): void;
}

/** A new link (or filter, or socket) at the wished hook. With `beside`, another one holds the name until `replace`. */
export const attachNew = async (
  options: HookOptions,
  wanted: Wanted,
  program: Program,
  beside: Observed | null,
): Promise<Change> => {
  const { paths, artifact, sockets } = options;
  const name = beside ? `${wanted.key}${NEXT}` : wanted.key;
  const record = join(paths.records, name);
  const pinPath = join(paths.links, name);
  const text = recordText(artifact, wanted);
  if (Buffer.byteLength(text) > RECORD_BYTES)
    throw new DeployError(
      'artifacts.unsupported',
      `The path of ${describePoint(wanted.point).slice(0, 200)} is too long for a record in the bpf file system: shorten it.`,
    );
  const left = await filterLeft(wanted, program);
  const undo = async (): Promise<void> => {
    if (left && wanted.point.kind === 'tc' && (await filterProgram(wanted.point)) === program.id)
      await attach(left, wanted.point, { replaceProgramId: program.id });
    else if (wanted.point.kind === 'tc') await removeFilter(options, wanted.point, wanted.place, [program.id]);
    closeSocket(sockets, pinPath);
    removeLink(pinPath, [program.id]);
    removePin(record);
    left?.[Symbol.dispose]();
  };
  // First: of a filter there is nothing but the record to know it by after a crash.
  options.step('record', () => writeRecord(record, text));
  try {
    removePin(pinPath);
    const made = await patiently(() => attachAt(options, wanted, program, pinPath, beside, left));
    if (wanted.point.kind === 'socket_filter') sockets.set(pinPath, { attachment: made, programId: program.id });
    else made[Symbol.dispose]();
    if (made.madeQdisc) rememberQdisc(options.layout, wanted.place);
  } catch (error) {
    await undo();
    throw await attachError(options, wanted, error);
  }
  return { undo, done: () => left?.[Symbol.dispose]() };
};

/** A filter of ours whose record is lost, as when the bpf file system was unmounted under it: links ended with their pins, this runs on.
 *  It stands at the handle that follows from node, artifact and hook, and runs a program of the name. */
const filterLeft = async ({ point }: Wanted, program: Program): Promise<Program | null> => {
  const id = point.kind === 'tc' ? await filterProgram(point) : 0;
  if (id === 0) return null;
  const found = programById(id);
  if (found.info().name === program.info().name) return found;
  found[Symbol.dispose]();
  return null;
};

/** The kernel lets go of a link a moment after its last pin is gone: a hook of one program may still be held by what was there, and
 *  any hook by the very program that is attached again. */
const patiently = async (work: () => Promise<Attachment>): Promise<Attachment> => {
  for (const pauseMs of [5, 10, 20, 40, 80, 160]) {
    try {
      return await work();
    } catch (error) {
      const held = isLoaderError(error) && (error.code === 'bpf.hook_busy' || error.errno === constants.errno.EEXIST);
      if (!held || error.code === 'bpf.pin_failed') throw error;
      await pause(pauseMs);
    }
  }
  return work();
};

const attachAt = async (
  options: HookOptions,
  { point, order, program: { name } }: Wanted,
  program: Program,
  pinPath: string,
  beside: Observed | null,
  left: Program | null,
): Promise<Attachment> => {
  switch (point.kind) {
    case 'tc':
      return attach(program, point, left ? { replaceProgramId: left.id } : {});
    case 'socket_filter':
      return attach(program, point);
    case 'tcx': {
      const wish = { artifact: options.artifact, program: name, ...(order ?? { priority: DEFAULT_PRIORITY }) };
      const place = tcxPlace(wish, await neighbours(options, point, beside));
      const made = await attach(program, { ...point, order: place }, { pinPath });
      const id = made.links[0]?.info().id;
      if (id !== undefined) options.tenants.remember(id, tcxTenantOf(wish.artifact, name, order));
      return made;
    }
    case 'netfilter':
      return attachNetfilter(program, point, pinPath, beside);
    default:
      return attach(program, point, { pinPath });
  }
};

/** Two programs of netfilter cannot stand at one priority: the new one takes the next that is free beside the old one. */
const attachNetfilter = async (
  program: Program,
  point: Extract<AttachPoint, { kind: 'netfilter' }>,
  pinPath: string,
  beside: Observed | null,
): Promise<Attachment> => {
  for (const step of beside ? [0, 1, -1, 2, -2] : []) {
    try {
      return await attach(program, { ...point, priority: point.priority + step }, { pinPath });
    } catch (error) {
      if (!isLoaderError(error, 'bpf.hook_busy')) throw error;
    }
  }
  return attach(program, point, { pinPath });
};

/** The programs of ours at a tcx hook, but the one that is being replaced. */
const neighbours = async (
  { tenants }: HookOptions,
  point: Extract<AttachPoint, { kind: 'tcx' }>,
  beside: Observed | null,
): Promise<Neighbour[]> => {
  const { linkIds, programIds } = await hookState(point);
  return programIds.flatMap((programId, at) => {
    const linkId = linkIds[at] ?? 0;
    const found = tenants.tcxTenant(linkId);
    return found && linkId !== beside?.link?.id ? [{ ...found, programId }] : [];
  });
};

const attachError = async ({ tenants }: HookOptions, wanted: Wanted, error: unknown): Promise<DeployError> => {
  const hook = describePoint(wanted.point);
  if (!isLoaderError(error, 'bpf.hook_busy'))
    return deployError(error, `Program '${wanted.program.name}' cannot be attached (${hook})`, 'attach');
  const id = error.details.programId;
  return busyError(error, hook, typeof id === 'number' ? tenants.ownerOf(id) : null);
};

/** Another program into what is attached, at once for every packet. */
export const updateProgram = async (
  options: HookOptions,
  wanted: Wanted,
  found: Observed,
  program: Program,
): Promise<Change> => {
  const { paths } = options;
  const old = programById(found.programId);
  const put = async (next: Program, instead: number): Promise<void> => {
    if (wanted.point.kind === 'tc') {
      (await attach(next, wanted.point, { replaceProgramId: instead }))[Symbol.dispose]();
      return;
    }
    using link = openLink(join(paths.links, wanted.key));
    link.update(next);
  };
  try {
    await put(program, found.programId);
  } catch (error) {
    old[Symbol.dispose]();
    throw await attachError(options, wanted, error);
  }
  const done = (): void => old[Symbol.dispose]();
  return {
    undo: async () => {
      await put(old, program.id);
      done();
    },
    done,
  };
};

/** What stands beside takes the name, and the old goes. The record first: a link without one beside it has only this step to go. */
export const replace = async (
  options: HookOptions,
  { key }: Pick<Wanted, 'key'>,
  old: Observed | null,
  ourPrograms: readonly number[],
): Promise<void> => {
  const { paths, sockets } = options;
  const next = join(paths.links, `${key}${NEXT}`);
  const own = join(paths.links, key);
  const record = join(paths.records, `${key}${NEXT}`);
  if (isThere(record)) movePin(record, join(paths.records, key));
  options.step('rename', () => {
    const held = sockets.get(next);
    if (held) {
      closeSocket(sockets, own);
      sockets.set(own, held);
      sockets.delete(next);
    }
    if (!isThere(next)) return;
    using former = old?.link && isThere(own) ? openLink(own) : null;
    movePin(next, own);
    // At once where the kernel can; else a moment after its pin is gone.
    if (former && ourPrograms.includes(former.info().programId)) takeOff(former);
  });
};

/** Takes an attachment off and its pin and record away. */
export const detach = async (options: HookOptions, found: Observed, ourPrograms: readonly number[]): Promise<void> => {
  const { paths, sockets } = options;
  const path = join(paths.links, found.name);
  const { record } = found;
  if (record?.point.kind === 'tc') await removeFilter(options, record.point, record.place, ourPrograms);
  closeSocket(sockets, path);
  removeLink(path, ourPrograms);
  removePin(join(paths.records, found.name));
};

/** Also off when somebody else holds the link; a link that was given a foreign program only loses our pin. */
const removeLink = (path: string, ourPrograms: readonly number[]): void => {
  const info = linkAt(path);
  if (info && !isDetached(info) && ourPrograms.includes(info.programId)) {
    using link = openLink(path);
    takeOff(link);
  }
  removePin(path);
};
const takeOff = (link: Link): void => {
  try {
    link.detach();
  } catch (error) {
    if (!isLoaderError(error)) throw error; // tracing links know no detaching: they go with their pin
  }
};

const removeFilter = async (
  { layout }: HookOptions,
  point: Extract<AttachPoint, { kind: 'tc' }>,
  place: Place,
  ourPrograms: readonly number[],
): Promise<void> => {
  const mark = qdiscMark(layout, place);
  const ours = readRecord(mark) !== null;
  const there = await whereNow(point, place);
  if (!there) return void removePin(mark);
  for (const programId of ourPrograms) {
    try {
      if (await detachTc(there, programId, { removeQdisc: ours })) removePin(mark);
      return;
    } catch (error) {
      if (isLoaderError(error, 'bpf.no_such_target')) return void removePin(mark);
      if (!isLoaderError(error, 'bpf.attach_refused')) throw error; // another program is there: ours of before, or a foreign one
    }
  }
};

const qdiscMark = (layout: Layout, { netns, ifindex }: Place): string =>
  join(layout.qdiscs, key16(String(netns), String(ifindex)));
const rememberQdisc = (layout: Layout, place: Place): void => {
  ownFolder(layout.qdiscs);
  writeRecord(qdiscMark(layout, place), 'made');
};
