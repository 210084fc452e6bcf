import { seal } from '@aegis/protocol/access/sealed-box';
import type { Credentials, S3Destination } from '@aegis/protocol/backups/config';
import type { SealedCredentials } from '@aegis/protocol/backups/node-endpoints';
import { objectNames } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../platform/clock.ts';
import type { CredentialVault } from './credentials.ts';
import type { Place } from './destinations-repository.ts';
import type { RunAccess } from './run-access.ts';
import type { S3Store } from './s3/store.ts';
import { assumeRole, type Purpose } from './s3/sts.ts';
import type { Stores } from './stores.ts';
import type { RunRow } from './tables.ts';
import { lockedUntil, type UploadsService } from './uploads.ts';

/** What a run needs of S3: a credential in the ways that hand one out, sealed to the node; and a look at what lies there in the end. */

export const sealedCredentials =
  (on: { stores: Stores; vault: CredentialVault }) =>
  async (
    place: Place,
    sealingKey: Buffer | null,
    session: { prefix: string; purpose: Purpose; name: string },
  ): Promise<string | null> => {
    const { destination } = place;
    if (destination.kind !== 's3' || destination.access === 'signed' || destination.access === 'presigned') return null;
    if (sealingKey === null)
      throw new AegisError(
        'backups.unsupported',
        `destination.access = '${destination.access}' hands credentials to nodes, and this node has no key to seal them to. Enrol it again, or use 'signed'.`,
      );
    const own = place.credentials === null ? null : on.vault.decrypt(place.configId, place.credentials);
    const given =
      destination.access === 'sts'
        ? await assumed(on.stores.of(place).bounds, destination, own, session)
        : staticOnes(own);
    return seal(Buffer.from(JSON.stringify(given)), sealingKey);
  };
const assumed = (
  bounds: Parameters<typeof assumeRole>[0]['bounds'],
  destination: S3Destination,
  credentials: Credentials | null,
  { prefix, purpose, name }: { prefix: string; purpose: Purpose; name: string },
): Promise<SealedCredentials> => assumeRole({ destination, credentials, bounds, prefix, purpose, sessionName: name });
const staticOnes = (own: Credentials | null): SealedCredentials => {
  if (own === null)
    throw new AegisError(
      'backups.bad_destination',
      "destination.access = 'static' hands the configuration's own credentials to its nodes, and it has none. Give it credentials.",
    );
  return own;
};

export const s3Access = (on: {
  stores: Stores;
  sealed: ReturnType<typeof sealedCredentials>;
  uploads: UploadsService;
  clock: Clock;
}): RunAccess => ({
  grant: async (run, place, { sealingKey }) => ({
    sealed_credentials: await on.sealed(place, sealingKey, sessionOf(run, 'write')),
    conditional_writes: place.probe?.conditional_writes ?? true,
  }),
  check: async (run, place, objects) => {
    const store = on.stores.of(place);
    const until = lockedUntil(place, on.clock.now());
    const names = objectNames(run.encrypted === 1);
    for (const [object, { bytes, content }] of objects) {
      const key = `${run.prefix}${names[object]}`;
      const found = await store.head(key);
      if (found === null) return `The ${object} is not at the destination (${key}). Start another attempt.`;
      if (found.bytes !== bytes)
        return `The ${object} has ${found.bytes} bytes at the destination and ${bytes} by the statement. Start another attempt.`;
      if (content && !(await holds(store, key, content)))
        return `The ${object} at the destination is not the one that was sent with the end. Start another attempt.`;
      if (until !== null) await store.ensureLocked(key, until);
    }
    return null;
  },
  attemptOver: (run, attempt) => void on.uploads.attemptOver(run, attempt), // it throws nothing
});

/** Small objects alone. */
const holds = async (store: S3Store, key: string, content: Buffer): Promise<boolean> => {
  const stored = await store.get(key);
  if (stored === null) return false;
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of store.chunks(stored.body)) {
    bytes += part.length;
    if (bytes > content.length) return false;
    parts.push(part);
  }
  return Buffer.concat(parts).equals(content);
};

/** Names the run in the provider's log. */
export const sessionOf = (run: RunRow, purpose: Purpose) => ({
  prefix: run.prefix,
  purpose,
  name: `aegis-${purpose}-${run.id}`,
});
