/** The bpf file system that holds pins: mounted when missing, and a walk that follows no symbolic link and leaves no mount. Names
 *  are letters, digits, `_` and `-`: bpffs refuses dots. */
import { mkdirSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { checkPath } from './arguments.ts';
import { invalid, LoaderError, typed } from './errors.ts';
import { addon } from './loader.ts';

export const DEFAULT_BPFFS = '/sys/fs/bpf';
const BPFFS_MAGIC = 0xcafe4a11;

export interface PinEntry {
  name: string;
  /** `other`: a symbolic link. */
  kind: 'folder' | 'pin' | 'other';
}

export interface Bpffs {
  readonly root: string;
  /** The path of names below the root, checked. */
  path(...names: string[]): string;
  /** Makes missing folders, mode 0700; returns the path. */
  ensureFolder(...names: string[]): string;
  /** By name; empty when the folder is not there. */
  list(...names: string[]): PinEntry[];
  /** Removes one pin; false when there was none. */
  unpin(...names: string[]): boolean;
  /** Removes a folder with all in it; the number of pins removed. */
  removeTree(...names: string[]): number;
}

export const isBpffs = (path: string): boolean => {
  try {
    // The magic comes as a signed or unsigned number, as the platform has it.
    return statfsSync(path).type >>> 0 === BPFFS_MAGIC;
  } catch {
    return false; // not there: certainly none
  }
};

/** @param mount mounts one at the root where there is none (needs CAP_SYS_ADMIN); else bpf.not_found */
export const openBpffs = ({ root = DEFAULT_BPFFS, mount = true } = {}): Bpffs => {
  checkPath(root, 'The root');
  if (!isBpffs(root)) {
    if (!mount)
      throw new LoaderError({
        code: 'bpf.not_found',
        message: `There is no bpf file system at ${root}: mount one there.`,
      });
    mkdirSync(root, { recursive: true });
    typed(() => addon().mountBpffs(root));
  }
  return {
    root,
    path: (...names) => join(root, ...checkNames(names)),
    ensureFolder: (...names) => {
      typed(() => addon().makeFolders(root, checkNames(names)));
      return join(root, ...names);
    },
    list: (...names) => {
      const found = ifThere(() => addon().listFolder(root, checkNames(names))) ?? [];
      return found.sort((one, other) => (one.name < other.name ? -1 : 1));
    },
    unpin: (...names) => typed(() => addon().removePin(root, checkNames(names))),
    removeTree: (...names) => typed(() => addon().removeTree(root, checkNames(names))),
  };
};

const checkNames = (names: readonly string[]): readonly string[] => {
  for (const name of names) {
    if (!/^[A-Za-z0-9_-]{1,128}$/.test(name))
      throw invalid('A name in a bpf file system has 1 to 128 letters, digits, "_" or "-".', { name });
  }
  return names;
};

const ifThere = <T>(call: () => T): T | undefined => {
  try {
    return typed(call);
  } catch (error) {
    if (error instanceof LoaderError && error.code === 'bpf.not_found') return undefined;
    throw error;
  }
};
