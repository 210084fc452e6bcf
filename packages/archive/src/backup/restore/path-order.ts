import { badManifest } from './refusals.ts';

/** Paths as bytes, compared component by component: a directory, then all that is below it, then its next sibling. */

const SLASH = 0x2f;
/** Ours are scattered where a source lies below something that is excluded: a few. */
const MOST_SCATTERED_BYTES = 64 * 1024 * 1024;

/** <0, 0, >0. A slash counts less than any other byte, so that `a`, `a/b`, `a-b` is the order. */
export const comparePaths = (a: Buffer, b: Buffer): number => {
  const most = Math.min(a.length, b.length);
  let at = 0;
  while (at < most && a[at] === b[at]) at += 1;
  if (at === most) return a.length - b.length;
  return rank(a[at]) - rank(b[at]);
};
const rank = (byte: number | undefined): number => (byte === SLASH ? 0 : (byte ?? 0) + 1);

/** `.` is above everything. */
export const isBelow = (path: Buffer, directory: Buffer): boolean => {
  if (isRoot(directory)) return !isRoot(path);
  const end = directory.length;
  return path.length > end && path[end] === SLASH && path.subarray(0, end).equals(directory);
};
export const isRoot = (path: Buffer): boolean => path.length === 1 && path[0] === 0x2e;

/** The path without its last component; empty at the top. */
export const parentOf = (path: Buffer): Buffer => path.subarray(0, Math.max(path.lastIndexOf(SLASH), 0));
export const nameOf = (path: Buffer): Buffer => path.subarray(path.lastIndexOf(SLASH) + 1);

/** Watches entries go by, for those that come later than their order would have them. */
export class PathOrder {
  sorted = true;
  readonly scattered = new Set<string>();
  #furthest: Buffer | null = null;
  #scatteredBytes = 0;

  /** The entry before went back; the one after it may go on in a folder that was left for it. */
  #wentBack = false;

  /** @throws AegisError backups.bad_manifest when there is too much to remember: a single path may have 131,072 folders */
  accept(path: Buffer): void {
    const furthest = this.#furthest;
    const goesOn = !furthest || (!isRoot(path) && (isRoot(furthest) || comparePaths(furthest, path) < 0));
    if (!goesOn || this.#wentBack) this.#scatter(path);
    if (goesOn) this.#furthest = path;
    this.#wentBack = !goesOn;
  }

  /** With a folder, those above it are known. */
  #scatter(path: Buffer): void {
    this.sorted = false;
    this.scattered.add('.');
    for (let end = path.lastIndexOf(SLASH); end > 0; end = path.lastIndexOf(SLASH, end - 1)) {
      const folder = path.toString('latin1', 0, end);
      if (this.scattered.has(folder)) return;
      this.#scatteredBytes += end;
      if (this.#scatteredBytes > MOST_SCATTERED_BYTES)
        throw badManifest('limit', 'its entries are in no order that a restore could follow');
      this.scattered.add(folder);
    }
  }
}
