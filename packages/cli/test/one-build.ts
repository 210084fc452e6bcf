import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { waitFor } from '../../../test/faults/wait.ts';
import { buildCli } from '../build.ts';

/** The bundle that the tests of one run share, so that none sees an old one: its folder is named before them, made by the first that needs it,
 *  and gone after them. Inside the package, so that node_modules is found. */

const VARIABLE = 'AEGIS_TEST_BUILD';

/** Vitest calls this before the run, and what it returns after it. */
export default (): (() => void) => {
  const folder = join(dirname(fileURLToPath(import.meta.url)), '..', 'build', `test-${process.pid}-${Date.now()}`);
  process.env[VARIABLE] = folder;
  return () => rmSync(folder, { recursive: true, force: true });
};

export const oneBuild = async (): Promise<string> => {
  const folder = process.env[VARIABLE];
  if (folder === undefined) throw new Error('vitest.config.ts names packages/cli/test/one-build.ts in globalSetup');
  const [dist, done, failed] = [join(folder, 'dist'), join(folder, 'done'), join(folder, 'failed')];
  mkdirSync(folder, { recursive: true });
  if (!claimed(join(folder, 'claim'))) {
    await waitFor('the bundle of this run', () => existsSync(done) || existsSync(failed), 55_000);
    if (existsSync(failed))
      throw new Error('the bundle could not be built: the first test file that needed it says why');
    return dist;
  }
  try {
    await buildCli(dist);
  } catch (error) {
    writeFileSync(failed, '');
    throw error;
  }
  writeFileSync(done, '');
  return dist;
};

const claimed = (path: string): boolean => {
  try {
    mkdirSync(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
};
