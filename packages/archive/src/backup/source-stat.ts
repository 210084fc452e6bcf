import { constants } from 'node:fs';
import { STAT, TYPE } from '@aegis/native/files';
import type { EntryKind } from './select/selection.ts';

/** What stat says, read out of the numbers that `@aegis/native/files` fills in. */
export type StatNumbers = Float64Array;

const KINDS: ReadonlyMap<number, EntryKind> = new Map([
  [constants.S_IFREG, 'file'],
  [constants.S_IFDIR, 'directory'],
  [constants.S_IFLNK, 'symlink'],
  [constants.S_IFCHR, 'character'],
  [constants.S_IFBLK, 'block'],
  [constants.S_IFIFO, 'fifo'],
  [constants.S_IFSOCK, 'socket'],
]);
/** Types of a listing that need no stat to tell. */
export const LISTED_FILE = TYPE.file;
export const LISTED_DIRECTORY = TYPE.directory;

export const field = (stat: StatNumbers, index: number): number => stat[index] ?? 0;
/** Null for what Linux does not have. */
export const kindOf = (stat: StatNumbers): EntryKind | null =>
  KINDS.get(field(stat, STAT.mode) & constants.S_IFMT) ?? null;
/** Major × 2^32 + minor. */
export const deviceOf = (stat: StatNumbers): number =>
  field(stat, STAT.devMajor) * 2 ** 32 + field(stat, STAT.devMinor);

export interface Identity {
  device: number;
  inodeHigh: number;
  inodeLow: number;
}
export const identityOf = (stat: StatNumbers): Identity => ({
  device: deviceOf(stat),
  inodeHigh: field(stat, STAT.inodeHigh),
  inodeLow: field(stat, STAT.inodeLow),
});
export const isThe = (identity: Identity, stat: StatNumbers): boolean =>
  stat[STAT.inodeLow] === identity.inodeLow &&
  stat[STAT.inodeHigh] === identity.inodeHigh &&
  deviceOf(stat) === identity.device;
