import { MAX_PATH_BYTES } from './manifest/lines.ts';
import { ownProblem, type Problem } from './source-problem.ts';

/** Paths of sources, as bytes: absolute while the scan goes, relative to `/` in the archive. */

const SLASH = 0x2f;
const ROOT = Buffer.from('/');
const DOT = Buffer.from('.');

const childPath = (directory: Buffer, name: Buffer): Buffer => {
  const from = directory.length === 1 ? 1 : directory.length + 1;
  const path = Buffer.allocUnsafe(from + name.length);
  directory.copy(path);
  path[from - 1] = SLASH;
  name.copy(path, from);
  return path;
};

export interface WalkedPath {
  /** Of a source. */
  begin(path: Buffer): Buffer;
  /** Of what a directory holds; takes the place of all that was last made below that directory. */
  child(directory: Buffer, name: Buffer): Buffer;
}

/** Where a walk is: the paths of all directories on the way down are beginnings of one and the same, and share its memory. One for each of them would
 *  take gigabytes in a tree that anybody can make who may make folders. */
export const walkedPath = (): WalkedPath => {
  const bytes = Buffer.allocUnsafeSlow(MAX_PATH_BYTES + MOST_NAME_BYTES);
  return {
    begin: (path) => (path.length > bytes.length ? path : bytes.subarray(0, path.copy(bytes))),
    child: (directory, name) => {
      const from = directory.length === 1 ? 1 : directory.length + 1;
      const end = from + name.length;
      if (directory.buffer !== bytes.buffer || end > bytes.length) return childPath(directory, name);
      bytes[from - 1] = SLASH;
      name.copy(bytes, from);
      return bytes.subarray(0, end);
    },
  };
};
/** Of one, and the slashes around it: what is longer than a path may be must still be told. */
const MOST_NAME_BYTES = 4096;

/** As the archive has it. */
export const storedPath = (absolute: Buffer): Buffer => (absolute.length === 1 ? DOT : absolute.subarray(1));

/** Where a name is looked up, and the name; of the root, its own `.`. */
export const splitPath = (absolute: Buffer): { directory: Buffer; name: Buffer } => {
  if (absolute.length === 1) return { directory: ROOT, name: DOT };
  const slash = absolute.lastIndexOf(SLASH);
  return { directory: slash === 0 ? ROOT : absolute.subarray(0, slash), name: absolute.subarray(slash + 1) };
};

/** In the order in which a walk from the root would come to them, so that a source comes before those below it; each once, slashes that mean
 *  nothing taken out. */
export const sourcePaths = (sources: readonly Buffer[]): { paths: Buffer[]; problems: Problem[] } => {
  const problems: Problem[] = [];
  const texts = new Set<string>();
  for (const source of sources) {
    const text = source.toString('latin1');
    const parts = text.split('/').filter((part) => part !== '' && part !== '.');
    if (text.startsWith('/') && !parts.includes('..') && !text.includes('\0')) texts.add(`/${parts.join('/')}`);
    else problems.push(ownProblem(source, 'bad_source', 'is no absolute path without ..'));
  }
  const inOrder = [...texts].map((text) => text.replaceAll('/', '\0')).sort();
  return { paths: inOrder.map((text) => Buffer.from(text.replaceAll('\0', '/'), 'latin1')), problems };
};
