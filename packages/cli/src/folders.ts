import { mkdirSync } from 'node:fs';

/** Makes folders for us alone, each below the one before; the first one's parent has to be there. In place of mkdir's `recursive`, which
 *  goes round for ever where making one fails with ENOENT although its parent is there, as in /proc, and would make up a HOME. */
export const makeFolders = (...names: readonly [string, ...string[]]): void => {
  let path = '';
  for (const name of names) {
    path = path === '' ? name : `${path}/${name}`;
    try {
      mkdirSync(path, { mode: 0o700 });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
  }
};
