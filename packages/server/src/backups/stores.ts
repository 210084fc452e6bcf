import type { Credentials, Destination } from '@aegis/protocol/backups/config';
import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../platform/clock.ts';
import type { CredentialVault } from './credentials.ts';
import type { Place } from './destinations-repository.ts';
import type { S3Bounds } from './s3/client.ts';
import { type S3Store, s3Store } from './s3/store.ts';

/** One client for each S3 destination in use, made at the first need, of the last few: a client holds connections. */

const KEPT = 64;

export interface Stores {
  /** @throws AegisError backups.unsupported (a folder), backups.bad_destination (credentials that cannot be read) */
  of(place: Place): S3Store;
  /** Not kept: for trying one out. Close it. */
  once(destination: Destination, credentials: Credentials | null): S3Store;
  close(): Promise<void>;
}

export const destinationStores = (on: { vault: CredentialVault; clock: Clock; bounds: Partial<S3Bounds> }): Stores => {
  const known = new Map<string, { as: string; store: S3Store }>();
  const once: Stores['once'] = (destination, credentials) => {
    if (destination.kind !== 's3')
      throw new AegisError(
        'backups.unsupported',
        "The backup lies in a folder, which only the machine that wrote it reaches. Verify it there: 'aegis backups verify --from FOLDER' ('aegis backups show RUN' names the folder).",
      );
    return s3Store(destination, credentials, { clock: on.clock, bounds: on.bounds });
  };
  return {
    once,
    of: (place) => {
      const as = JSON.stringify([place.destination, place.credentials]);
      const found = known.get(place.id);
      if (found?.as === as) return found.store;
      const credentials = place.credentials === null ? null : on.vault.decrypt(place.configId, place.credentials);
      const store = once(place.destination, credentials);
      known.delete(place.id);
      known.set(place.id, { as, store });
      // A former one is not closed: it may have calls under way. Its idle connections end by themselves.
      if (known.size > KEPT) known.delete(known.keys().next().value ?? '');
      return store;
    },
    close: async () => {
      await Promise.all([...known.values()].map(({ store }) => store.close()));
      known.clear();
    },
  };
};
