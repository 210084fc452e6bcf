import { lstat, mkdir, open, readdir, rename, rmdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';

/** Folders of runs below a `file` destination of the server's own. The destination itself is named by the server's settings and is there
 *  already: a share that is not mounted is no place for archives. No link is followed below it. */

const errnoOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? 'unknown error';
const isDirectory = async (path: string): Promise<boolean> => {
  try {
    return (await lstat(path)).isDirectory();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
};

/** @param below the run's prefix @returns its path @throws AegisError backups.destination_failed */
export const makeFolder = async (root: string, below: string): Promise<string> => {
  let path = root;
  try {
    if (!(await isDirectory(root)))
      throw new AegisError('backups.destination_failed', `${root} is not there, or no folder: make it, or mount it.`);
    for (const segment of below.split('/').filter((part) => part !== '')) {
      path = join(path, segment);
      if (await isDirectory(path)) continue;
      await mkdir(path, { mode: 0o700 });
    }
    return path;
  } catch (cause) {
    if (cause instanceof AegisError) throw cause;
    throw new AegisError('backups.destination_failed', `${path} cannot be made (${errnoOf(cause)}).`, { cause });
  }
};

/** Durable, under its name only when it is whole. */
export const keepFiles = async (folder: string, names: readonly string[]): Promise<void> => {
  for (const name of names) await rename(join(folder, `.${name}.part`), join(folder, name));
  await syncFolder(folder);
};
export const partOf = (folder: string, name: string): string => join(folder, `.${name}.part`);
export const writeSmall = async (folder: string, name: string, bytes: Buffer): Promise<void> => {
  const file = await open(partOf(folder, name), 'wx', 0o600);
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
  await keepFiles(folder, [name]);
};
const syncFolder = async (folder: string): Promise<void> => {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
};
export const sizeOf = async (path: string): Promise<number | null> => {
  try {
    const stat = await lstat(path);
    return stat.isFile() ? stat.size : null;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
};

const OBJECT = /^\.?(?:archive\.tar\.zst(?:\.age)?|manifest\.ndjson\.zst(?:\.age)?|statement\.json)(?:\.part)?$/;
/** Removes the attempts of a run, statements first; whatever else lies there stays. @param below as in `server/<config>/<run>/` */
export const removeRunFolder = async (root: string, below: string): Promise<void> => {
  let path = root;
  for (const segment of below.split('/').filter((part) => part !== '')) {
    path = join(path, segment);
    if (!(await isDirectory(path))) return;
  }
  for (const attempt of (await readdir(path)).filter((name) => /^\d{1,4}$/.test(name))) {
    const folder = join(path, attempt);
    if (!(await isDirectory(folder))) continue;
    const names = (await readdir(folder)).filter((name) => OBJECT.test(name));
    names.sort((a, b) => Number(b.includes('statement')) - Number(a.includes('statement')));
    for (const name of names) await unlink(join(folder, name));
    await removeEmpty(folder);
  }
  await removeEmpty(path);
};
const removeEmpty = async (path: string): Promise<void> => {
  try {
    await rmdir(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOTEMPTY') throw error;
  }
};
