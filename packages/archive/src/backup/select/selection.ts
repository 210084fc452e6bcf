/** select: what of the sources gets into a backup, with restic's semantics. Made per run by `select.ts` from a configuration's
 *  excludes; asked by `../scan.ts` of everything below the sources, never of a source itself.
 *  Invariant: a pure answer from what it is given. Must not: touch the file system (a directory's marker files are read by the
 *  scanner, without following links, through `DirectoryView`). */

export type EntryKind = 'file' | 'directory' | 'symlink' | 'character' | 'block' | 'fifo' | 'socket';

/** Something below a source, as lstat sees it. */
export interface Candidate {
  /** Absolute, bytes as they are, without a slash at the end. */
  path: Buffer;
  kind: EntryKind;
  size: number;
  /** Major × 2^32 + minor. */
  device: number;
}

export interface DirectoryView {
  path: Buffer;
  device: number;
  /** The device of the source below which it was found. */
  sourceDevice: number;
  has(name: Buffer): boolean;
  /** The first bytes of a regular file in it, at most `limit`; null when there is none, or it cannot be read. */
  read(name: Buffer, limit: number): Buffer | null;
}

/** What a directory holds, once it is known what stands in it. */
export type Members = 'all' | 'none' | { only: readonly Buffer[] };

export interface Selection {
  /** By the path alone, before anything is known of it. What is below a refused directory is not looked at. */
  includesPath(path: Buffer): boolean;
  /** By what stat says; `within` is the directory that it was found in. */
  includes(candidate: Candidate, within: DirectoryView): boolean;
  /** Asked once of each directory that is entered, sources too: CACHEDIR.TAG, if-present markers, file systems' borders. */
  members(directory: DirectoryView): Members;
}

export const everything: Selection = {
  includesPath: () => true,
  includes: () => true,
  members: () => 'all',
};
