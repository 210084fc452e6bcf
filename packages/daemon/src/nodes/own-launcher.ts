import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** How the `aegis` that belongs to this daemon is started: the CLI's bundle beside the daemon's, or in the work tree the built one; null where
 *  there is none. */
export const ownLauncher = (here = dirname(fileURLToPath(import.meta.url))): readonly string[] | null => {
  const bundle = [join(here, 'aegis.cjs'), join(here, '../../../cli/dist/aegis.cjs')].find((path) => existsSync(path));
  return bundle === undefined ? null : [process.execPath, bundle];
};
