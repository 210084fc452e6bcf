import type { KeyObject } from 'node:crypto';
import * as z from 'zod/mini';
import { AegisError } from '../errors.ts';
import { type Envelope, openEnvelope, PAYLOAD_TYPES, signEnvelope } from './dsse.ts';
import { type KeyPair, keyIdOf, publicKeyFromRaw } from './keys.ts';
import { parseStrictJson } from './strict-json.ts';

/** The trust bundle: which keys a fleet's nodes obey, signed by the root whose fingerprint each node pinned at enrolment.
 *  This release carries root and server key; operators' keys, thresholds over one and rotation extend the same document. */

const RawKey = z.string().check(z.regex(/^[A-Za-z0-9+/]{43}=$/));
export const KeyUsage = z.enum(['serve', 'operate', 'artifacts']);
export type KeyUsage = z.infer<typeof KeyUsage>;

export const TrustBundle = z.strictObject({
  fleet: z.string().check(z.minLength(1), z.maxLength(64)),
  version: z.int().check(z.positive()),
  previous: z.nullable(z.string()),
  issued_at: z.string(),
  expires_at: z.string(),
  root: z.strictObject({ threshold: z.literal(1), keys: z.array(RawKey).check(z.minLength(1), z.maxLength(8)) }),
  keys: z
    .array(
      z.strictObject({
        keyid: z.string().check(z.regex(/^[0-9a-f]{64}$/)),
        public_key: RawKey,
        name: z.string().check(z.maxLength(128)),
        /** Whose it is, for thresholds that count persons. */
        person: z.optional(z.string().check(z.minLength(1), z.maxLength(128))),
        usage: z.array(KeyUsage),
        /** The key id that minisign prints, 16 hexadecimal digits: what a signature names. Of `artifacts` and `operate` keys. */
        minisign_id: z.optional(z.string().check(z.regex(/^[0-9A-F]{16}$/))),
        state: z.enum(['active', 'revoked']),
      }),
    )
    .check(z.maxLength(1024)),
});
export type TrustBundle = z.infer<typeof TrustBundle>;

export const signTrustBundle = (bundle: TrustBundle, root: KeyPair): Envelope =>
  signEnvelope(PAYLOAD_TYPES.trust, bundle, root);

const untrusted = (why: string, cause?: unknown) =>
  new AegisError('access.untrusted', `The server's trust bundle is refused: ${why}.`, { cause });

/** Bytes of a bundle's payload: 1,024 keys with all their fields stay far below. */
export const MAX_TRUST_PAYLOAD_BYTES = 1024 * 1024;

/** Opens a bundle that must be signed by the root key with this fingerprint (hex SHA-256 of the raw key).
 *  `rootFingerprint` null trusts the root that the bundle itself names: only for first contact under `--dev`.
 *  @throws AegisError access.untrusted */
export const openTrustBundle = (
  envelope: Envelope,
  rootFingerprint: string | null,
  nowMs: number,
): { bundle: TrustBundle; rootFingerprint: string } => {
  let bundle: TrustBundle;
  if (envelope.payload.length > (MAX_TRUST_PAYLOAD_BYTES / 3) * 4)
    throw untrusted('it is larger than any trust bundle');
  try {
    bundle = z.parse(TrustBundle, parseStrictJson(Buffer.from(envelope.payload, 'base64').toString('utf8')));
  } catch (cause) {
    throw untrusted('it is not a trust bundle', cause);
  }
  // Unverified until the signature below: only the pinned fingerprint picks which of the named roots may count.
  const roots = bundle.root.keys.map((text) => Buffer.from(text, 'base64'));
  const root = rootFingerprint === null ? roots[0] : roots.find((raw) => keyIdOf(raw) === rootFingerprint);
  if (!root) throw untrusted('its root key is not the one that the join token names');
  const { signedBy } = openEnvelope(envelope, PAYLOAD_TYPES.trust, new Map([[keyIdOf(root), publicKeyFromRaw(root)]]));
  if (signedBy.length === 0) throw untrusted('its root signature is wrong');
  if (!(Date.parse(bundle.expires_at) > nowMs)) throw untrusted(`it expired at ${bundle.expires_at}`);
  if (new Set(bundle.keys.map(({ keyid }) => keyid)).size < bundle.keys.length)
    throw untrusted('it lists a key twice, so that nobody can say what the key may do');
  return { bundle, rootFingerprint: keyIdOf(root) };
};

/** The active keys of a bundle with this usage, by key id. A key listed under an id that is not its own is left out. */
export const keysFor = (bundle: TrustBundle, usage: KeyUsage): Map<string, KeyObject> => {
  const found = new Map<string, KeyObject>();
  for (const key of bundle.keys) {
    const raw = Buffer.from(key.public_key, 'base64');
    if (key.state === 'active' && key.usage.includes(usage) && keyIdOf(raw) === key.keyid)
      found.set(key.keyid, publicKeyFromRaw(raw));
  }
  return found;
};
