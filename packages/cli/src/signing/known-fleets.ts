import { AegisError } from '@aegis/protocol/errors';
import type { Surroundings } from '../surroundings.ts';
import { readKnown, writeKnown } from './known-list.ts';

/** Which fleet each server is, in `~/.config/aegis/known_fleets`: noted when something is first signed for it. A stolen server that named
 *  another fleet could otherwise have commands signed that other nodes obey. A line for each: origin, fleet. */

const LINE = /^(https?:\/\/\S{1,512}) (\S{1,64})$/;

/** @throws AegisError access.untrusted when the server was another fleet before, config.invalid */
export const knownFleet = async (
  { env, output }: Pick<Surroundings, 'env' | 'output'>,
  origin: string,
  shown: string,
): Promise<string> => {
  const known = readKnown(env, 'known_fleets', LINE);
  const before = known.entries.get(origin);
  if (before === shown) return shown;
  if (before !== undefined)
    throw new AegisError(
      'access.untrusted',
      `${origin} says that it is the fleet '${shown.slice(0, 64)}'; you signed for '${before}' there. If it was set up anew, remove its line from ${known.path}; if not, somebody may have taken it over.`,
    );
  if (!LINE.test(`${origin} ${shown}`))
    throw new AegisError('access.untrusted', `${origin} names a fleet that no server of this release could be.`);
  known.entries.set(origin, shown);
  writeKnown(known, 'The fleets that this user signs for, by server; noted at the first signature.');
  await output.err(`aegis: ${origin} is the fleet '${shown}'; from now on you sign for no other one there.\n`);
  return shown;
};
