import { createHash } from 'node:crypto';
import type { Envelope } from './dsse.ts';
import {
  readTrustPayload,
  requireRootSignatures,
  requireSound,
  rootFingerprintOf,
  type TrustBundle,
  type TrustKey,
  type TrustRoot,
  untrusted,
} from './trust-bundle.ts';

/** How one version of the trust bundle follows from another. Each names the digest of its predecessor and is signed by the root of that; one
 *  that changes the root by the new root as well. Whoever holds a version walks from it to the newest, step by step, and needs to trust
 *  nobody on the way. */

/** A version that is trusted, from which others follow. */
export interface HeldTrust {
  bundle: TrustBundle;
  /** Base64, as the envelope has it: two bundles of one version are the same only if these bytes are. */
  payload: string;
}

/** What the next version's `previous` has to be: hex SHA-256 of the payload's bytes. */
export const digestOf = ({ payload }: { payload: string }): string =>
  createHash('sha256').update(Buffer.from(payload, 'base64')).digest('hex');

const RESTORED = 'Was the server restored from an old backup?';

/** The version after `held`. When it expired is not looked at: those before the newest are history.
 *  @throws AegisError access.untrusted, with what is wrong */
export const followTrust = (held: HeldTrust, envelope: Envelope): HeldTrust => {
  const bundle = readTrustPayload(envelope.payload);
  const { version, root } = held.bundle;
  if (bundle.fleet !== held.bundle.fleet)
    throw untrusted(`it is of the fleet '${bundle.fleet}', this node belongs to '${held.bundle.fleet}'`);
  // Before anything else that it says: who signed it. Anybody can write a version number.
  requireRootSignatures(envelope, root);
  if (bundle.version < version)
    throw untrusted(`it is version ${bundle.version}, this node has ${version}. ${RESTORED}`);
  const digest = digestOf(held);
  const merges =
    bundle.version > version && bundle.merges?.some((one) => one.version === version && one.digest === digest);
  const here = `version ${version} that this node has (${version}:${digest})`;
  if (bundle.version === version) throw untrusted(`it is another one than the ${here}. ${RESTORED}`);
  if (bundle.version > version + 1 && !merges)
    throw untrusted(`it is version ${bundle.version}, and ${version + 1} follows ${version}: one was left out`);
  if (bundle.previous !== digest && !merges) throw untrusted(`it follows another one than the ${here}. ${RESTORED}`);
  if (rootFingerprintOf(bundle.root) !== rootFingerprintOf(root))
    requireRootSignatures(envelope, bundle.root, 'new root');
  requireSound(bundle, Number.NEGATIVE_INFINITY);
  const back = broughtBack(held.bundle, bundle);
  if (back)
    throw untrusted(
      `it brings back the key '${back.name}' (${back.minisign_id ?? back.keyid.slice(0, 16)}), which was revoked. ${RESTORED} Revoke that key anew`,
    );
  return { bundle, payload: envelope.payload };
};

/** A key that was revoked and shall count again, or is gone, so that a later version could list it anew: so a server that was set back in time
 *  forgets a revocation, even where the root has signed what it shows. */
const broughtBack = (before: TrustBundle, after: TrustBundle): TrustKey | undefined => {
  const now = new Map(after.keys.map((key) => [key.keyid, key.state]));
  return before.keys.find(({ keyid, state }) => state === 'revoked' && now.get(keyid) !== 'revoked');
};

/** The root after a change of it, given a bundle that made one. Not its predecessor's digest: what the old root signed is its word.
 *  @throws AegisError access.untrusted */
export const followRoot = (root: TrustRoot, envelope: Envelope): TrustRoot => {
  const next = readTrustPayload(envelope.payload).root;
  requireRootSignatures(envelope, root);
  requireRootSignatures(envelope, next, 'new root');
  return next;
};

const DAY_MS = 24 * 3_600_000;
/** `due`: whoever holds the root key renews it now. `expiring`: somebody has to. */
export type TrustAge = 'good' | 'due' | 'expiring' | 'expired';
export const ageOf = ({ issued_at, expires_at }: TrustBundle, nowMs: number): TrustAge => {
  const left = Date.parse(expires_at) - nowMs;
  if (!(left > 0)) return 'expired';
  const lifetime = Date.parse(expires_at) - Date.parse(issued_at);
  if (left < Math.min(90 * DAY_MS, lifetime / 8)) return 'expiring';
  return left < Math.min(365 * DAY_MS, lifetime / 4) ? 'due' : 'good';
};
