import type { Envelope } from '@aegis/protocol/access/dsse';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { openTrustBundle, rootFingerprintOf } from '@aegis/protocol/access/trust-bundle';
import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../platform/clock.ts';
import { type HttpClient, Unreachable } from '../platform/http/client.ts';
import { type Pinned, readTrust } from './trust-file.ts';
import { walk } from './trust-walk.ts';

/** Whether somebody is of the fleet that this node belongs to: asked before anything is said to him. */

export interface TrustHome {
  /** Whether a join token names the root that this node pinned when it enrolled, one that it holds since, or one to which what it holds leads.
   *  @param connect a client for the server, asked only for the last of these */
  isRoot(pinned: Pinned, fingerprint: string, connect: () => Promise<HttpClient>): Promise<boolean>;
  /** Whether what a server shows is of the root that this node holds, also when it is an older version, since nothing here changes by it; or
   *  follows from what it holds.
   *  @throws Unreachable, AegisError */
  isOurs(pinned: Pinned, shown: Envelope, client: HttpClient): Promise<boolean>;
}

export const trustHome = (dataDir: string, clock: Clock): TrustHome => {
  const heldBy = (pinned: Pinned) => readTrust(dataDir, pinned).newest;
  const rootOf = (pinned: Pinned): string => {
    const held = heldBy(pinned);
    return held ? rootFingerprintOf(held.bundle.root) : pinned.root_fingerprint;
  };
  return {
    isRoot: async (pinned, fingerprint, connect) => {
      if (fingerprint === pinned.root_fingerprint || fingerprint === rootOf(pinned)) return true;
      const held = heldBy(pinned);
      if (!held) return false;
      try {
        const client = await connect();
        const { trust_bundle } = await client.call(showTrust, { authorised: false });
        const walked = await walk(client, held, trust_bundle);
        return walked.refused === null && rootFingerprintOf(walked.held.bundle.root) === fingerprint;
      } catch (error) {
        if (error instanceof AegisError || error instanceof Unreachable) return false;
        throw error;
      }
    },
    isOurs: async (pinned, shown, client) => {
      // Of whatever root: which one it is, is looked at next.
      const { bundle, rootFingerprint } = openTrustBundle(shown, null, clock.now());
      if (bundle.fleet !== pinned.fleet) return false;
      if (rootFingerprint === rootOf(pinned)) return true;
      const held = heldBy(pinned);
      return held !== null && (await walk(client, held, shown)).refused === null;
    },
  };
};
