import type { Envelope } from '@aegis/protocol/access/dsse';
import { readTrustPayload, rootFingerprintOf, untrusted } from '@aegis/protocol/access/trust-bundle';
import { digestOf, followTrust, type HeldTrust } from '@aegis/protocol/access/trust-chain';
import { walkTrust } from '@aegis/protocol/access/trust-endpoints';
import { AegisError } from '@aegis/protocol/errors';
import type { HttpClient } from '../platform/http/client.ts';

/** From the version that this node holds to the one that the server shows, step by step. Every step is checked by the one before, so it does
 *  not matter who shows them. */

export interface Walked {
  held: HeldTrust;
  /** Of `held`; null when no step was taken. */
  envelope: Envelope | null;
  /** The steps that changed the root. */
  rootChanges: Envelope[];
  /** Why it went no further than `held`. */
  refused: AegisError | null;
}

/** @param shown what the server calls its newest
 *  @throws Unreachable, and AegisError as the client: then nothing is to be concluded */
export const walk = async (client: HttpClient, from: HeldTrust, shown: Envelope): Promise<Walked> => {
  const walked: Walked = { held: from, envelope: null, rootChanges: [], refused: null };
  const step = (envelope: Envelope): void => {
    const next = followTrust(walked.held, envelope);
    if (rootFingerprintOf(next.bundle.root) !== rootFingerprintOf(walked.held.bundle.root))
      walked.rootChanges.push(envelope);
    walked.held = next;
    walked.envelope = envelope;
  };
  try {
    const goal = readTrustPayload(shown.payload);
    const here = from.bundle.version;
    const digest = digestOf(from);
    const merges = goal.merges?.some((head) => head.version === here && head.digest === digest);
    while (walked.held.bundle.version + 1 < goal.version && !merges) {
      const next = walked.held.bundle.version + 1;
      const { trust_bundles } = await client.call(walkTrust, { query: { from: next }, authorised: false });
      if (trust_bundles.length === 0)
        throw untrusted(
          `it is version ${goal.version}, and the server does not show version ${next}, which comes first`,
        );
      for (const envelope of trust_bundles) if (walked.held.bundle.version < goal.version) step(envelope);
    }
    if (shown.payload !== walked.held.payload) step(shown);
  } catch (error) {
    if (!(error instanceof AegisError) || error.code !== 'access.untrusted') throw error;
    walked.refused = error;
  }
  return walked;
};
