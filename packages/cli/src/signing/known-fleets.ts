import { closeSync, constants, fstatSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { contextsPath } from '../contexts.ts';
import { makeFolders } from '../folders.ts';
import { reasonOf } from '../new-file.ts';
import type { Surroundings } from '../surroundings.ts';

/** Which fleet each server is, in `~/.config/aegis/known_fleets`: noted when something is first signed for it. A stolen server that named
 *  another fleet could otherwise have commands signed that other nodes obey. A line for each: origin, fleet. */

const LINE = /^(https?:\/\/\S{1,512}) (\S{1,64})$/;
const HEAD = '# The fleets that this user signs for, by server; noted at the first signature.\n';
const MAX_BYTES = 1024 * 1024;

/** @throws AegisError access.untrusted when the server was another fleet before, config.invalid */
export const knownFleet = async (
  { env, output }: Pick<Surroundings, 'env' | 'output'>,
  origin: string,
  shown: string,
): Promise<string> => {
  const contexts = contextsPath(env);
  if (contexts === null)
    throw new AegisError('config.invalid', 'There is no HOME to keep known fleets in. Set HOME or XDG_CONFIG_HOME.');
  const path = `${dirname(contexts)}/known_fleets`;
  const known = readKnown(path);
  const before = known.get(origin);
  if (before === shown) return shown;
  if (before !== undefined)
    throw new AegisError(
      'access.untrusted',
      `${origin} says that it is the fleet '${shown.slice(0, 64)}'; you signed for '${before}' there. If it was set up anew, remove its line from ${path}; if not, somebody may have taken it over.`,
    );
  if (!LINE.test(`${origin} ${shown}`))
    throw new AegisError('access.untrusted', `${origin} names a fleet that no server of this release could be.`);
  known.set(origin, shown);
  makeFolders(dirname(dirname(path)), 'aegis');
  const fresh = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(fresh, `${HEAD}${[...known].map(([one, fleet]) => `${one} ${fleet}\n`).join('')}`, {
      mode: 0o600,
      flag: 'wx',
      flush: true,
    });
    renameSync(fresh, path);
  } catch (error) {
    rmSync(fresh, { force: true });
    throw new AegisError('config.invalid', `${path} cannot be written (${reasonOf(error)}).`);
  }
  await output.err(`aegis: ${origin} is the fleet '${shown}'; from now on you sign for no other one there.\n`);
  return shown;
};

const readKnown = (path: string): Map<string, string> => {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (reasonOf(error) === 'ENOENT' || reasonOf(error) === 'ENOTDIR') return new Map();
    throw new AegisError('config.invalid', `${path} cannot be read (${reasonOf(error)}).`);
  }
  try {
    const { mode, size } = fstatSync(fd);
    if ((mode & 0o022) !== 0 || (mode & constants.S_IFMT) !== constants.S_IFREG || size > MAX_BYTES)
      throw new AegisError(
        'config.invalid',
        `${path} can be written by others, or is no such list. Run: chmod 600 ${path}`,
      );
    const lines = readFileSync(fd, 'utf8').split('\n');
    return new Map(
      lines.flatMap((line): [string, string][] => {
        const [, origin, fleet] = LINE.exec(line) ?? [];
        return origin && fleet ? [[origin, fleet]] : [];
      }),
    );
  } finally {
    closeSync(fd);
  }
};
