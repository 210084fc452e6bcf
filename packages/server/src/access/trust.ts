import type { Envelope } from '@aegis/protocol/access/dsse';
import { type KeyPair, keyIdOf, keyPairFromPem } from '@aegis/protocol/access/keys';
import { openTrustBundle, signTrustBundle, type TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import type { Clock } from '../platform/clock.ts';
import { BUNDLE_LIFETIME_MS, type FleetKeys, rootKeyPath } from './fleet-keys.ts';
import { readPrivateFile } from './private-files.ts';
import { addToTrustChain, digestOf, nextInTrustChain, removeTrustDrafts, type TrustVersion } from './trust-chain.ts';

/** The trust bundle that is in force, and how it changes: always by a new version that the root key signs. Only servers that run on
 *  the data directory change it, and only through its API; the root key is read for the moment of a change. */

export interface Trust {
  /** The newest version. */
  current(): { envelope: Envelope; bundle: TrustBundle; version: number };
  /** Told of the version in force after each change, and when a change that had been made already is asked for again; awaited before the
   *  caller gets an answer. */
  onChange(callback: (version: number) => Promise<void> | void): void;
  /** Puts the keys that `next` makes of the present ones in force; null leaves all as it is.
   *  @throws AegisError access.root_key_absent, access.key_conflict, config.invalid */
  change(next: (keys: TrustBundle['keys']) => TrustBundle['keys'] | null): Promise<void>;
}

export const trustOf = (parts: {
  dataDir: string;
  keys: FleetKeys;
  clock: Clock;
  faults: FaultPoints;
  shared?: boolean;
}): Trust => {
  const { dataDir, keys, clock, faults } = parts;
  let newest: TrustVersion = keys.chain.at(-1) ?? keys.chain[0];
  const shared = parts.shared ?? false;
  /** Other server processes on the same directory add versions too: a look at whether there is a next one costs microseconds.
   *  @throws AegisError config.invalid for one that does not follow */
  const follow = (): void => {
    for (let next = shared ? newest : null; next; next = nextInTrustChain(dataDir, newest, keys.rootFingerprint))
      newest = next;
  };
  const current = (): TrustVersion => {
    try {
      follow();
    } catch (error) {
      if (!(error instanceof AegisError)) throw error; // else what holds goes on; the next change says what is wrong
    }
    return newest;
  };
  const callbacks: ((version: number) => Promise<void> | void)[] = [];
  removeTrustDrafts(dataDir, shared);

  /** Not interrupted by another change here: nothing in it waits. False when another process took the version. */
  const append = (listed: TrustBundle['keys']): boolean => {
    const root = rootKey(dataDir, keys.rootFingerprint);
    const now = clock.now();
    const version = newest.version + 1;
    const bundle: TrustBundle = {
      ...newest.bundle,
      version,
      previous: digestOf(newest.envelope),
      issued_at: new Date(now).toISOString(),
      expires_at: new Date(now + BUNDLE_LIFETIME_MS).toISOString(),
      keys: listed,
    };
    const envelope = signTrustBundle(bundle, root);
    refuseUnreadable(envelope, keys.rootFingerprint, now);
    if (!addToTrustChain(dataDir, version, envelope, faults)) {
      if (shared) return false;
      throw new AegisError(
        'config.invalid',
        `Another process has made version ${version} of the trust bundle in ${dataDir}. Restart the server, and ask again.`,
      );
    }
    newest = { version, envelope, bundle };
    return true;
  };

  return {
    current,
    onChange: (callback) => void callbacks.push(callback),
    change: async (next) => {
      for (;;) {
        follow();
        const listed = next(newest.bundle.keys);
        if (!listed || append(listed)) break;
      }
      for (const callback of callbacks) await callback(newest.version);
    },
  };
};

/** A version stays for good: one that readers refuse would keep nodes from all later ones, and the server from starting. */
const refuseUnreadable = (envelope: Envelope, rootFingerprint: string, now: number): void => {
  try {
    openTrustBundle(envelope, rootFingerprint, now);
  } catch (cause) {
    throw new AegisError(
      'access.key_conflict',
      'The trust bundle would be one that no node reads: nothing was changed. Shorten the names of keys and persons, or set up a new fleet.',
      { cause },
    );
  }
};

const rootKey = (dataDir: string, fingerprint: string): KeyPair => {
  const path = rootKeyPath(dataDir);
  const pem = readPrivateFile(path);
  if (pem === null)
    throw new AegisError(
      'access.root_key_absent',
      'The root key is kept away from this server, and without it the keys that nodes trust do not change: nothing was changed. Put it back as keys/root.pem in the data directory (mode 0600), ask again, and take it away.',
    );
  let root: KeyPair | null;
  try {
    root = keyPairFromPem(pem);
  } catch {
    root = null; // without the cause, which could quote the key
  }
  if (!root || keyIdOf(root.publicRaw) !== fingerprint)
    throw new AegisError(
      'access.root_key_absent',
      "keys/root.pem in the data directory is damaged, or another fleet's root key: nothing was changed. Put this fleet's own there.",
    );
  return root;
};
