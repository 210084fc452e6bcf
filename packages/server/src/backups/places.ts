import type { BackupSpec, Credentials, Destination } from '@aegis/protocol/backups/config';
import { AegisError } from '@aegis/protocol/errors';
import type { CredentialVault } from './credentials.ts';
import type { Place } from './destinations-repository.ts';
import type { DestinationRow } from './tables.ts';

/** Where a configuration's next run goes: the same place where nothing of it changed or only how it is reached, else a new one, because
 *  runs stay where they were written. */

export interface NextPlace {
  row: DestinationRow;
  isNew: boolean;
  changed: boolean;
  credentials: Credentials | null;
  credentialsChanged: boolean;
}

export const nextPlace = (from: {
  configId: string;
  spec: BackupSpec;
  /** Absent: those that it has stay. Null: taken away. */
  given: Credentials | null | undefined;
  was: Place | undefined;
  vault: CredentialVault;
  seal: (credentials: Credentials) => string;
  now: number;
  newId: () => string;
}): NextPlace => {
  const { spec, was, given } = from;
  const before = given === undefined ? stored(from) : storedOrLost(from);
  // What goes to a folder has no use for those of a bucket.
  const credentials =
    given === undefined ? (spec.destination.kind === 's3' && before !== 'lost' ? before : null) : given;
  const credentialsChanged = before === 'lost' || JSON.stringify(before) !== JSON.stringify(credentials);
  const destination = JSON.stringify(spec.destination);
  const isNew = was === undefined || locationOf(was.destination) !== locationOf(spec.destination);
  const changed = isNew || credentialsChanged || JSON.stringify(was.destination) !== destination;
  return {
    row: {
      id: isNew ? from.newId() : was.id,
      config_id: from.configId,
      created_at: from.now,
      access_key_id: credentials?.access_key_id ?? null,
      credentials: credentialsChanged
        ? credentials && from.seal(credentials)
        : credentials && (was?.credentials ?? null),
      destination,
      probe: changed || !was.probe ? null : JSON.stringify(was.probe),
    },
    isNew,
    changed,
    credentials,
    credentialsChanged,
  };
};

type Stored = Pick<Parameters<typeof nextPlace>[0], 'configId' | 'was' | 'vault'>;
const stored = ({ configId, was, vault }: Stored): Credentials | null =>
  was?.credentials ? vault.decrypt(configId, was.credentials) : null;
/** What nobody can read any more may still be replaced. */
const storedOrLost = (from: Stored): Credentials | null | 'lost' => {
  try {
    return stored(from);
  } catch (error) {
    if (error instanceof AegisError && error.code === 'backups.bad_destination') return 'lost';
    throw error;
  }
};

/** What tells one place from another: archives are found by these. */
const locationOf = (destination: Destination): string =>
  destination.kind === 'file'
    ? JSON.stringify([destination.path])
    : JSON.stringify([destination.endpoint ?? null, destination.region, destination.bucket, destination.prefix]);
