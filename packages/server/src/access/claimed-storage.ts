import { AegisError } from '@aegis/protocol/errors';
import type { Storage } from '../tables.ts';
import type { FleetKeys } from './fleet-keys.ts';
import { accessRepository } from './repository.ts';

/** Makes sure that the database is this fleet's: two fleets in one would sign and enrol across each other.
 *  @throws AegisError config.invalid */
export const claimStorage = async (storage: Storage, keys: FleetKeys): Promise<void> => {
  const owner = await accessRepository(storage).claimFor({
    fleet: keys.fleet,
    root_fingerprint: keys.firstRootFingerprint,
  });
  if (owner.root_fingerprint !== keys.firstRootFingerprint)
    throw new AegisError(
      'config.invalid',
      `The database belongs to the fleet '${owner.fleet}' with another root key than the data directory's. Use its own data directory, or another database.`,
    );
};
