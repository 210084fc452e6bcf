import { realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Selection } from './selection.ts';

/** A selection without certain folders, whatever way a source leads to them by: what a backup itself writes while it reads would be in the next one
 *  again, and grow with each. A folder that is a source itself stays one.
 *  @param folders absolute; what is not there is left out by no name */
export const leavingOut = (select: Selection, folders: readonly string[], sources: readonly string[]): Selection => {
  const names = new Set(folders.flatMap((folder) => sources.flatMap((source) => nameBelow(source, folder))));
  if (names.size === 0) return select;
  return { ...select, includesPath: (path) => !names.has(path.toString('latin1')) && select.includesPath(path) };
};

/** How a walk that begins at the source calls the folder, as latin1; nothing where it does not come there. Links on the way to a source are followed,
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
  return [Buffer.from(`${plain === '/' ? '' : plain}${below}`, 'utf8').toString('latin1')];
};

const real = (path: string): string | null => {
  try {
    return realpathSync.native(path);
  } catch {
    return null; // not there, or not for us: then the walk does not come there either
  }
};
