import { type BundleLimits, MANIFEST_FILE } from '@aegis/protocol/artifacts/manifest';
import { badBundle, overLimit, quoted } from './refusal.ts';
import { BLOCK_BYTES, readTarHeader, tarHeader } from './tar-header.ts';

/** The tar inside a bundle, which has one form for given files: manifest.json, then the others by name, each with `tarHeader`'s header
 *  and zeros up to the next block, then two blocks of zeros. Reading refuses every other form, so that no two programs can see
 *  different files in one bundle. */

export interface TarEntry {
  readonly name: string;
  readonly bytes: Uint8Array;
}

const paddingOf = (size: number): number => (BLOCK_BYTES - (size % BLOCK_BYTES)) % BLOCK_BYTES;
/** Names are ASCII: by code unit is bytewise. */
const inOrder = (a: string, b: string): boolean => b !== MANIFEST_FILE && (a === MANIFEST_FILE || a < b);

export const tarBytes = (sizes: readonly number[]): number =>
  sizes.reduce((sum, size) => sum + BLOCK_BYTES + size + paddingOf(size), 2 * BLOCK_BYTES);

export const writeTar = (entries: readonly TarEntry[]): Buffer => {
  const sorted = [...entries].sort((a, b) => (inOrder(a.name, b.name) ? -1 : 1));
  const parts = sorted.flatMap(({ name, bytes }) => [
    tarHeader(name, bytes.length),
    bytes,
    Buffer.alloc(paddingOf(bytes.length)),
  ]);
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK_BYTES)]);
};

/** The entries in their order, as views of `tar`.
 *  @throws AegisError artifacts.bad_bundle, artifacts.bundle_limit */
export const readTar = (
  tar: Buffer,
  limits: Pick<BundleLimits, 'files' | 'manifestBytes'>,
): { name: string; bytes: Buffer }[] => {
  if (tar.length % BLOCK_BYTES !== 0)
    throw badBundle(
      'tar_length',
      `The bundle's tar has ${tar.length} bytes, which is no whole number of blocks of 512.`,
    );
  if (tar.length === 0) throw empty();
  const entries: { name: string; bytes: Buffer }[] = [];
  let at = 0;
  while (at < tar.length) {
    const block = tar.subarray(at, at + BLOCK_BYTES);
    if (isZero(block)) {
      refuseEnd(tar, at, entries.length);
      return entries;
    }
    const { name, size } = readTarHeader(block);
    refuseEntry(name, size, entries, limits);
    const from = at + BLOCK_BYTES;
    const end = from + size + paddingOf(size);
    if (end > tar.length)
      throw badBundle(
        'entry_truncated',
        `The bundle's entry ${quoted(name)} has ${size} bytes by its header, and the tar ends before.`,
      );
    if (!isZero(tar.subarray(from + size, end)))
      throw badBundle(
        'padding',
        `Something is hidden behind the bundle's entry ${quoted(name)}, up to the next block.`,
      );
    entries.push({ name, bytes: tar.subarray(from, from + size) });
    at = end;
  }
  throw badBundle('tar_end', "The bundle's tar has no end (two blocks of zeros).");
};

const refuseEntry = (
  name: string,
  size: number,
  before: readonly { name: string }[],
  limits: Pick<BundleLimits, 'files' | 'manifestBytes'>,
): void => {
  const last = before.at(-1)?.name;
  if (last === undefined) {
    if (name !== MANIFEST_FILE)
      throw badBundle(
        'manifest_not_first',
        `The bundle begins with ${quoted(name)}: its first entry must be ${MANIFEST_FILE}.`,
      );
    if (size > limits.manifestBytes)
      throw overLimit('manifest_size', `The bundle's manifest has ${size} bytes: at most ${limits.manifestBytes}.`);
    return;
  }
  if (before.length >= limits.files)
    throw overLimit('too_many_files', `The bundle has more than ${limits.files} entries, with its manifest.`);
  if (before.some((one) => one.name === name))
    throw badBundle('duplicate_name', `The bundle has ${quoted(name)} twice.`);
  const alike = before.find((one) => one.name.toLowerCase() === name.toLowerCase());
  if (alike)
    throw badBundle(
      'case_duplicate',
      `The bundle has ${quoted(alike.name)} and ${quoted(name)}, which differ in case only.`,
    );
  if (!inOrder(last, name))
    throw badBundle(
      'entry_order',
      `The bundle has ${quoted(name)} behind ${quoted(last)}: entries stand in the order of their names.`,
    );
};

const refuseEnd = (tar: Buffer, at: number, entries: number): void => {
  if (entries === 0) throw empty();
  const second = tar.subarray(at + BLOCK_BYTES, at + 2 * BLOCK_BYTES);
  if (second.length === 0 || !isZero(second))
    throw badBundle('tar_end', "The bundle's tar ends with one block of zeros where there must be two.");
  if (tar.length > at + 2 * BLOCK_BYTES)
    throw badBundle('tar_trailing', "Something stands behind the end of the bundle's tar.");
};

const empty = () => badBundle('empty', 'The bundle is empty: pack it again.');

const ZEROS = Buffer.alloc(BLOCK_BYTES);
const isZero = (bytes: Buffer): boolean => bytes.equals(ZEROS.subarray(0, bytes.length));
