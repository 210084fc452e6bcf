import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { DeployError } from '../deployment.ts';

/** Folders, pins and records in the bpf file system. Every folder is ours alone (owner and mode are checked, links refused), so what
 *  is below one cannot be exchanged by others. Records are symbolic links whose text is read and never followed. */

const codeOf = (error: unknown): string => (error instanceof Error && 'code' in error ? String(error.code) : '');
const unless =
  <T>(codes: readonly string[], value: T) =>
  (error: unknown): T => {
    if (codes.includes(codeOf(error))) return value;
    throw error;
  };
const attempt = <T>(work: () => T, otherwise: (error: unknown) => T): T => {
  try {
    return work();
  } catch (error) {
    return otherwise(error);
  }
};

/** Made when it is missing; refused when it is not a folder of this user that is closed to others. */
export const ownFolder = (path: string): void => {
  attempt<unknown>(() => mkdirSync(path, { mode: 0o700 }), unless(['EEXIST'], undefined));
  ownIfThere(path);
};
/** False: it is not there. Refused when it is another's. */
export const ownIfThere = (path: string): boolean => {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return false;
  if (!found.isDirectory() || found.uid !== process.geteuid?.())
    throw new DeployError(
      'artifacts.attach_failed',
      `${path} is not a folder of this daemon's user: somebody else made it. Remove it, then the daemon tries again.`,
    );
  if ((found.mode & 0o077) !== 0) chmodSync(path, 0o700);
  return true;
};

/** Empty when the folder is not there. */
export const listFolder = (path: string): string[] =>
  attempt(() => readdirSync(path).sort(), unless(['ENOENT'], [] as string[]));

export const isThere = (path: string): boolean => lstatSync(path, { throwIfNoEntry: false }) !== undefined;

/** False when there was none. */
export const removePin = (path: string): boolean =>
  attempt(
    () => {
      unlinkSync(path);
      return true;
    },
    unless(['ENOENT'], false),
  );

/** Takes the place of what is there, at once. */
export const movePin = (from: string, to: string): void => renameSync(from, to);

const DEPTH = 6;
/** A folder and all in it. Nothing there is fine. */
export const removeTree = (path: string, depth = DEPTH): void => {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return;
  if (!found.isDirectory()) return void removePin(path);
  if (depth === 0) throw new Error(`${path} is deeper than anything of ours`);
  for (const name of listFolder(path)) removeTree(join(path, name), depth - 1);
  attempt<void>(() => rmdirSync(path), unless(['ENOENT'], undefined));
};

/** The kernel takes a path's length; what is ours stays well below. */
export const RECORD_BYTES = 4000;

/** Written whole or not at all. */
export const writeRecord = (path: string, text: string): void => {
  const beside = `${path}-w`;
  removePin(beside);
  symlinkSync(text, beside);
  renameSync(beside, path);
};

export const readRecord = (path: string): string | null =>
  attempt(() => readlinkSync(path), unless(['ENOENT', 'EINVAL'], null));

const PIECE = 3000;
/** A text of any length (ASCII), in a new folder of numbered records. */
export const writeText = (folder: string, text: string): void => {
  ownFolder(folder);
  for (let at = 0; at * PIECE < text.length; at++)
    symlinkSync(text.slice(at * PIECE, (at + 1) * PIECE), join(folder, String(at)));
};
export const readText = (folder: string): string => {
  let text = '';
  for (let at = 0; ; at++) {
    const piece = readRecord(join(folder, String(at)));
    if (piece === null) return text;
    text += piece;
  }
};
