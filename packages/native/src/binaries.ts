/** Where the compiled parts are: `AEGIS_NATIVE_DIR`, else this package's build folder (seen from its sources or from another
 *  package's bundle), else beside a bundle. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BatchAddon } from './file-batch.ts';
import type { FileAddon } from './files.ts';

export type NativeAddon = FileAddon &
  BatchAddon & {
    /** One datagram to a socket path, '@' first for an abstract one. */
    sdNotify: (socket: string, state: string) => boolean;
    /** Whether someone else holds a lock on the file (F_OFD_GETLK); false when there is no file. */
    lockHeld: (path: string) => boolean;
  };

const nativeFile = (name: string, env: NodeJS.ProcessEnv): string => {
  const here = dirname(fileURLToPath(import.meta.url));
  const folders = env.AEGIS_NATIVE_DIR
    ? [env.AEGIS_NATIVE_DIR]
    : [join(here, '../build/Release'), join(here, '../../native/build/Release'), here, join(here, 'native')];
  for (const folder of folders) {
    const path = join(folder, name);
    if (existsSync(path)) return path;
  }
  throw new Error(`${name} is not built (looked in ${folders.join(', ')}): run bin/setup.`);
};

/** Path of the aegis-exec binary. */
export const aegisExecPath = (env: NodeJS.ProcessEnv = process.env): string => nativeFile('aegis-exec', env);

/** The addon, loaded at the first call; Node.js itself keeps the one copy. */
export const loadAddon = (env: NodeJS.ProcessEnv = process.env): NativeAddon => {
  const addon: unknown = createRequire(import.meta.url)(nativeFile('aegis_native.node', env));
  if (!isAddon(addon)) throw new Error('aegis_native.node is of another version: run bin/setup.');
  return addon;
};

const isAddon = (value: unknown): value is NativeAddon =>
  typeof value === 'object' && value !== null && 'lockHeld' in value && 'writeFiles' in value;
