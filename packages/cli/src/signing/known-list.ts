import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { contextsPath } from '../contexts.ts';
import { makeFolders } from '../folders.ts';
import { reasonOf, replaceFile } from '../new-file.ts';

/** Small lists beside the contexts of what this user saw when he signed, a line each: name, space, value. */

export interface KnownList {
  path: string;
  entries: Map<string, string>;
}
type Env = Readonly<Record<string, string | undefined>>;

const MAX_BYTES = 1024 * 1024;

/** @param line with the name and the value as its groups; other lines are passed over
 *  @throws AegisError config.invalid, also for a list that others could write */
export const readKnown = (env: Env, name: string, line: RegExp): KnownList => {
  const contexts = contextsPath(env);
  if (contexts === null)
    throw new AegisError('config.invalid', `There is no HOME to keep ${name} in. Set HOME or XDG_CONFIG_HOME.`);
  const path = `${dirname(contexts)}/${name}`;
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (reasonOf(error) === 'ENOENT' || reasonOf(error) === 'ENOTDIR') return { path, entries: new Map() };
    throw new AegisError('config.invalid', `${path} cannot be read (${reasonOf(error)}).`);
  }
  try {
    const { mode, size } = fstatSync(fd);
    if ((mode & 0o022) !== 0 || (mode & constants.S_IFMT) !== constants.S_IFREG || size > MAX_BYTES)
      throw new AegisError(
        'config.invalid',
        `${path} can be written by others, or is no such list. Run: chmod 600 ${path}`,
      );
    const pairs = readFileSync(fd, 'utf8')
      .split('\n')
      .flatMap((text): [string, string][] => {
        const [, one, value] = line.exec(text) ?? [];
        return one && value ? [[one, value]] : [];
      });
    return { path, entries: new Map(pairs) };
  } finally {
    closeSync(fd);
  }
};

/** @throws AegisError config.invalid */
export const writeKnown = ({ path, entries }: KnownList, heading: string): void => {
  try {
    makeFolders(dirname(dirname(path)), 'aegis');
    replaceFile(path, `# ${heading}\n${[...entries].map(([name, value]) => `${name} ${value}\n`).join('')}`, 0o600);
  } catch (error) {
    throw new AegisError('config.invalid', `${path} cannot be written (${reasonOf(error)}).`);
  }
};
