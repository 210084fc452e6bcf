import { join } from 'node:path';
import { Envelope } from '@aegis/protocol/access/dsse';
import { openTrustBundle, rootFingerprintOf, type TrustRoot, untrusted } from '@aegis/protocol/access/trust-bundle';
import { followRoot, type HeldTrust } from '@aegis/protocol/access/trust-chain';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { readPrivateFile, writePrivateFile } from '../platform/private-files.ts';

/** trust.json: the newest trust bundle that this node has taken, and each change of the root that lies between it and the root that was pinned
 *  at the enrolment, so that everything here is checked from that pin at each start. */

/** What this node pinned at its enrolment. */
export interface Pinned {
  fleet: string;
  root_fingerprint: string;
  trust_bundle: Envelope;
}

export interface TrustOnDisk {
  /** The enrolment's bundle; null when it is not of the pinned root. */
  first: HeldTrust | null;
  /** The newest; null when what is on disk is damaged or not of the pinned root. */
  newest: HeldTrust | null;
  rootChanges: readonly Envelope[];
  /** Why `newest` is null. */
  error: AegisError | null;
}

const Stored = z.object({ trust_bundle: Envelope, root_changes: z.optional(z.array(Envelope)) });
const fileOf = (dataDir: string): string => join(dataDir, 'trust.json');

/** What is on disk counts whatever the clock says by now: when it expired is seen at each use.
 *  @throws AegisError config.invalid when trust.json is not a private file */
export const readTrust = (dataDir: string, pinned: Pinned): TrustOnDisk => {
  const text = readPrivateFile(fileOf(dataDir));
  let first: HeldTrust | null = null;
  try {
    first = opened(pinned.trust_bundle, pinned.root_fingerprint, pinned.fleet);
    if (text === null) return { first, newest: first, rootChanges: [], error: null };
    const stored = storedIn(text);
    const rootChanges = stored.root_changes ?? [];
    let root: TrustRoot = first.bundle.root;
    for (const change of rootChanges) root = followRoot(root, change);
    const newest = opened(stored.trust_bundle, rootFingerprintOf(root), pinned.fleet);
    // A node that joined anew has a newer one in its identity than in an old trust.json.
    if (newest.bundle.version <= first.bundle.version) return { first, newest: first, rootChanges: [], error: null };
    return { first, newest, rootChanges, error: null };
  } catch (error) {
    if (!(error instanceof AegisError)) throw error;
    // Not the enrolment's in its place: that would forget revocations.
    return { first, newest: null, rootChanges: [], error };
  }
};

export const writeTrust = (dataDir: string, trust_bundle: Envelope, root_changes: readonly Envelope[]): void => {
  const changes = root_changes.length > 0 ? { root_changes } : {};
  writePrivateFile(fileOf(dataDir), `${JSON.stringify({ trust_bundle, ...changes })}\n`);
};

/** @throws AegisError access.untrusted */
export const opened = (envelope: Envelope, rootFingerprint: string, fleet: string): HeldTrust => {
  const { bundle } = openTrustBundle(envelope, rootFingerprint, Number.NEGATIVE_INFINITY);
  if (bundle.fleet !== fleet) throw untrusted(`it is of the fleet '${bundle.fleet}', this node belongs to '${fleet}'`);
  return { bundle, payload: envelope.payload };
};

const storedIn = (text: string): z.infer<typeof Stored> => {
  try {
    return z.parse(Stored, JSON.parse(text));
  } catch (cause) {
    throw new AegisError('access.untrusted', 'trust.json is damaged.', { cause });
  }
};
