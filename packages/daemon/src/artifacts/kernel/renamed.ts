import { join } from 'node:path';
import { namespaceFacts } from '@aegis/bpf-loader/network';
import type { AttachPoint } from '@aegis/bpf-loader/types';
import { type AttachmentRecord, attachmentKey, type Place, recordText, samePlace, type Wanted } from './attachment.ts';
import type { HookOptions } from './hooks.ts';
import { NEXT } from './layout.ts';
import { type Observed, observe } from './observe.ts';
import { isThere, movePin, removePin, writeRecord } from './pin-folders.ts';

/** Interfaces that got another name. What is attached stays on the interface, so it must not be attached again under the new name (an XDP
 *  hook is full, a clsact filter would run twice), nor be looked for under the old one. */

/** What is attached to an interface under its former name takes the name of the wish that means the same interface.
 *  @returns what is observed afterwards; wishes of clsact get the handle under which their filter stands */
export const followRenamed = async (
  options: HookOptions,
  wanted: readonly Wanted[],
  before: ReadonlyMap<string, Observed>,
): Promise<ReadonlyMap<string, Observed>> => {
  const moves = wanted.flatMap((one) => {
    const found = formerOf(one, before);
    return found ? [{ from: found.name, to: one.key, wanted: one, record: found.record }] : [];
  });
  const held = new Set(before.keys());
  const parked: string[] = [];
  while (moves.length > 0) {
    const free = moves.findIndex(({ to }) => !held.has(to));
    // Names that were swapped: one waits beside until the others have gone on.
    const [move] = moves.splice(Math.max(free, 0), 1);
    if (!move) break;
    const to = free < 0 ? `${move.to}${NEXT}` : move.to;
    if (free < 0) parked.push(move.to);
    carry(options, move.from, to, move.wanted, move.record);
    held.delete(move.from);
    held.add(to);
  }
  for (const key of parked)
    for (const folder of [options.paths.links, options.paths.records])
      if (isThere(join(folder, `${key}${NEXT}`))) movePin(join(folder, `${key}${NEXT}`), join(folder, key));
  const after =
    held.size === before.size && parked.length === 0 && sameNames(held, before)
      ? before
      : await observe(options.paths, options.sockets);
  for (const one of wanted) keepHandle(one, after.get(one.key)?.record);
  return after;
};

const sameNames = (names: ReadonlySet<string>, before: ReadonlyMap<string, unknown>): boolean =>
  [...names].every((name) => before.has(name));

/** What stands where this wish goes, under the interface's former name. */
const formerOf = (
  { point, place, program, key }: Wanted,
  before: ReadonlyMap<string, Observed>,
): { name: string; record: AttachmentRecord } | null => {
  if (!('interface' in point) || point.kind === 'socket_filter') return null;
  const there = before.get(key)?.record;
  if (there && samePlace(there.place, place)) return null;
  for (const { name, record } of before.values()) {
    if (!record || !('interface' in record.point) || !samePlace(record.place, place)) continue;
    const former: AttachPoint = { ...point, interface: record.point.interface };
    if (name !== key && attachmentKey(program, former) === name) return { name, record };
  }
  return null;
};

/** The link first: without a record it is still known for what it is. */
const carry = (
  { paths, artifact }: HookOptions,
  from: string,
  to: string,
  wanted: Wanted,
  { order, point }: AttachmentRecord,
): void => {
  if (isThere(join(paths.links, from))) movePin(join(paths.links, from), join(paths.links, to));
  // How it stands, under the new name: order and handle as they are.
  const { order: _wished, ...rest } = wanted;
  const stands: Wanted = { ...rest, ...(order ? { order } : {}) };
  if (point.kind === 'tc' && stands.point.kind === 'tc') stands.point = { ...stands.point, handle: point.handle };
  if (point.kind === 'xdp' && stands.point.kind === 'xdp') stands.point = { ...stands.point, mode: point.mode };
  writeRecord(join(paths.records, to), recordText(artifact, stands));
  removePin(join(paths.records, from));
};

const keepHandle = (wanted: Wanted, record: AttachmentRecord | null | undefined): void => {
  if (wanted.point.kind !== 'tc' || record?.point.kind !== 'tc' || !samePlace(record.place, wanted.place)) return;
  wanted.point = { ...wanted.point, handle: record.point.handle };
};

/** A filter's place under the name that its interface has now; null when the interface or its namespace is gone. */
export const whereNow = async (
  point: Extract<AttachPoint, { kind: 'tc' }>,
  place: Place,
): Promise<Extract<AttachPoint, { kind: 'tc' }> | null> => {
  const facts = await namespaceFacts(point.netns);
  if (!facts || facts.inode !== place.netns) return null;
  const name = facts.interfaces.find(({ index }) => index === place.ifindex)?.name;
  return name === undefined ? null : { ...point, interface: name };
};
