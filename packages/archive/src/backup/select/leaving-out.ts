import { realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Selection } from './selection.ts';

/** What a backup itself writes while it reads would be in the next one again, and grow with each: folders that are left out whatever way a source
 *  leads to them by. One that is a source itself stays one.
 *  @param folders absolute; what is not there is left out by no name
 *  @returns their paths, as a walk of the sources comes to them */
export const leftOut = (folders: readonly string[], sources: readonly string[]): string[] => [
  ...new Set(folders.flatMap((folder) => sources.flatMap((source) => nameBelow(source, folder)))),
];

/** A selection without them. */
export const leavingOut = (select: Selection, paths: readonly string[]): Selection => {
  const names = new Set(paths.map((path) => Buffer.from(path, 'utf8').toString('latin1')));
  if (names.size === 0) return select;
  return { ...select, includesPath: (path) => !names.has(path.toString('latin1')) && select.includesPath(path) };
};

/** How a walk that begins at the source calls the folder; nothing where it does not come there. Links on the way to a source are followed,
 *  below it none. */
const nameBelow = (source: string, folder: string): string[] => {
  const from = real(join(dirname(source), '.'));
  const to = real(folder);
  if (from === null || to === null) return [];
  const top = join(
    from,
    source === '/' ? '' : (source.split('/').findLast((part) => part !== '' && part !== '.') ?? ''),
  );
  const below = top === '/' ? to : to.startsWith(`${top}/`) ? to.slice(top.length) : '';
  if (below === '') return [];
  const plain = join(source, '.');
  return [`${plain === '/' ? '' : plain}${below}`];
};

const real = (path: string): string | null => {
  try {
    return realpathSync.native(path);
  } catch {
    return null; // not there, or not for us: then the walk does not come there either
  }
};
