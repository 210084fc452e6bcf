import { closeSync, constants, existsSync, fsyncSync, openSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { reasonOf } from './new-file.ts';

/** Where `aegis server init` puts the root's secret key, when it is not to be on the server. */

export interface RootKeyFile extends Disposable {
  keep(this: void, pem: string): void;
}

/** A new file of mode 0600, empty until `keep`; gone again when that never came.
 *  @throws AegisError cli.usage, config.invalid */
export const rootKeyFile = (path: string, dataDir: string): RootKeyFile => {
  if (path === '-')
    throw new AegisError(
      'cli.usage',
      'The root key is not written to a terminal or a pipe, where it would stay who knows where: name a file with --root-key-out.',
    );
  if (existsSync(join(dataDir, 'fleet.json')))
    throw new AegisError(
      'config.invalid',
      `${dataDir} holds a fleet already, and its root key is where it was put. 'aegis access trust rotate-root' puts another in its place.`,
    );
  if (isWithin(path, dataDir))
    throw new AegisError(
      'cli.usage',
      `${path} is in the data directory, where the root key shall not be: name another place.`,
    );
  let fd: number;
  try {
    fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600);
  } catch (error) {
    const reason = reasonOf(error);
    throw new AegisError(
      'cli.usage',
      reason === 'EEXIST'
        ? `${path} is there already, and a key is never written over: name another file. One that an init left which broke off may go.`
        : `${path} cannot be made (${reason}): name another place with --root-key-out.`,
    );
  }
  let isKept = false;
  return {
    keep: (pem) => {
      writeFileSync(fd, pem);
      fsyncSync(fd);
      isKept = true;
    },
    [Symbol.dispose]: () => {
      closeSync(fd);
      if (!isKept) rmSync(path, { force: true });
    },
  };
};

/** Also by way of symbolic links. */
const isWithin = (path: string, folder: string): boolean => {
  const at = join(real(dirname(resolve(path))), basename(path));
  const way = relative(real(resolve(folder)), at);
  return way !== '' && !way.startsWith('..');
};
const real = (path: string): string => {
  try {
    return realpathSync(path);
  } catch {
    return path; // not there yet: nothing leads elsewhere
  }
};
