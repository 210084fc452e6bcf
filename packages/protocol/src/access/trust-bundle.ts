import { createHash, type KeyObject } from 'node:crypto';
import * as z from 'zod/mini';
import { AegisError } from '../errors.ts';
import { DirectiveKind } from './directive.ts';
import { type Envelope, openEnvelope, PAYLOAD_TYPES, signEnvelope } from './dsse.ts';
import { type KeyPair, keyIdOf, publicKeyFromRaw } from './keys.ts';
import { parseStrictJson } from './strict-json.ts';

/** The trust bundle: which keys a fleet's nodes obey, signed by the root whose fingerprint each node pinned at enrolment.
 *  How one version follows from another: trust-chain.ts. */

const RawKey = z.string().check(z.regex(/^[A-Za-z0-9+/]{43}=$/));
/** Whoever signs reads it, so that nothing may stand in it that nobody sees, and that would make two of them look alike. What Unicode has not
 *  assigned yet passes: a node of an older release must not refuse what a newer server took. */
const visible = z.regex(
  /^[^\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]*$/u,
  'only characters that are seen',
);
const Person = z.string().check(z.minLength(1), z.maxLength(128), visible);
export const KeyUsage = z.enum(['serve', 'operate', 'artifacts', 'release']);
export type KeyUsage = z.infer<typeof KeyUsage>;

/** What an `operate` key's orders may be, and for whom. A strict node looks at it, with the labels of its own files. */
export const KeyScope = z.strictObject({
  /** Absent: all of them. */
  kinds: z.optional(z.array(DirectiveKind).check(z.minLength(1), z.maxLength(16))),
  /** A target selector, as `aegis submit` takes it. Absent: every node. */
  selector: z.optional(z.string().check(z.minLength(1), z.maxLength(1024), visible)),
});
export type KeyScope = z.infer<typeof KeyScope>;

export const MAX_ROOT_KEYS = 8;
export const TrustRoot = z
  .strictObject({
    /** How many of the keys sign a bundle; where the keys have persons, as many persons. */
    threshold: z.int().check(z.minimum(1), z.maximum(MAX_ROOT_KEYS)),
    keys: z.array(RawKey).check(z.minLength(1), z.maxLength(MAX_ROOT_KEYS)),
    /** Whose each key is, in the order of the keys. */
    persons: z.optional(z.array(Person).check(z.minLength(1), z.maxLength(MAX_ROOT_KEYS))),
  })
  .check(
    z.refine(({ keys }) => new Set(keys).size === keys.length, 'a root key stands there twice'),
    z.refine(({ keys, persons }) => !persons || persons.length === keys.length, 'one person for each root key'),
    z.refine(
      ({ keys, persons, threshold }) => threshold <= new Set(persons ?? keys).size,
      'the threshold is more than there are root keys, or persons',
    ),
  );
export type TrustRoot = z.infer<typeof TrustRoot>;

/** A version, and the hex SHA-256 of its payload. */
export const TrustHead = z.strictObject({
  version: z.int().check(z.positive()),
  digest: z.string().check(z.regex(/^[0-9a-f]{64}$/)),
});
export type TrustHead = z.infer<typeof TrustHead>;

export const TrustBundle = z.strictObject({
  fleet: z.string().check(z.minLength(1), z.maxLength(64)),
  version: z.int().check(z.positive()),
  previous: z.nullable(z.string()),
  /** Heads of a chain that the server lost, when it was set back to a backup: whoever holds one goes on with this version. */
  merges: z.optional(z.array(TrustHead).check(z.minLength(1), z.maxLength(16))),
  issued_at: z.string(),
  expires_at: z.string(),
  root: TrustRoot,
  keys: z
    .array(
      z
        .strictObject({
          keyid: z.string().check(z.regex(/^[0-9a-f]{64}$/)),
          public_key: RawKey,
          name: z.string().check(z.maxLength(128), visible),
          /** Whose it is, for thresholds that count persons. */
          person: z.optional(Person),
          usage: z.array(KeyUsage),
          /** The key id that minisign prints, 16 hexadecimal digits: what a signature names. Of `artifacts` and `operate` keys. */
          minisign_id: z.optional(z.string().check(z.regex(/^[0-9A-F]{16}$/))),
          /** Of `operate` keys. */
          scope: z.optional(KeyScope),
          /** Of a server's key that another is to replace: from then on it counts as revoked. */
          until: z.optional(z.iso.datetime()),
          state: z.enum(['active', 'revoked']),
        })
        .check(
          z.refine(
            ({ scope, usage }) => !scope || usage.includes('operate'),
            'only a key that may operate has a scope',
          ),
          z.refine(
            ({ until, usage }) => until === undefined || usage.every((one) => one === 'serve'),
            "only a server's key ends by itself",
          ),
        ),
    )
    .check(z.maxLength(1024)),
});
export type TrustBundle = z.infer<typeof TrustBundle>;
export type TrustKey = TrustBundle['keys'][number];

export const signTrustBundle = (bundle: TrustBundle, ...roots: KeyPair[]): Envelope =>
  signEnvelope(PAYLOAD_TYPES.trust, bundle, ...roots);

export const untrusted = (why: string, cause?: unknown) =>
  new AegisError('access.untrusted', `The server's trust bundle is refused: ${why}.`, { cause });

/** Bytes of a bundle's payload: 1,024 keys with all their fields stay far below. */
export const MAX_TRUST_PAYLOAD_BYTES = 1024 * 1024;

/** What join tokens and nodes pin. Of one key its id, the hex SHA-256 of the raw key; of several the SHA-256 over threshold, keys and persons,
 *  whatever their order. */
export const rootFingerprintOf = ({ threshold, keys, persons }: TrustRoot): string => {
  const [only = ''] = keys;
  if (keys.length === 1 && !persons) return keyIdOf(Buffer.from(only, 'base64'));
  const lines = keys.map((key, at) => `${key} ${persons?.[at] ?? ''}\n`).sort();
  return createHash('sha256')
    .update(`aegis-root-1\n${threshold}\n${lines.join('')}`)
    .digest('hex');
};

export const rootKeyIds = ({ keys }: TrustRoot): string[] => keys.map((key) => keyIdOf(Buffer.from(key, 'base64')));

/** How many of the root's keys, or persons, signed it; and whether they are enough. */
export const rootSignatures = (
  envelope: Envelope,
  root: TrustRoot,
): { signedBy: string[]; count: number; enough: boolean } => {
  const persons = new Map<string, string>();
  const keys = new Map<string, KeyObject>();
  root.keys.forEach((text, at) => {
    const raw = Buffer.from(text, 'base64');
    const id = keyIdOf(raw);
    keys.set(id, publicKeyFromRaw(raw));
    persons.set(id, root.persons?.[at] ?? id);
  });
  const { signedBy } = openEnvelope(envelope, PAYLOAD_TYPES.trust, keys);
  const count = new Set(signedBy.map((id) => persons.get(id))).size;
  return { signedBy, count, enough: count >= root.threshold };
};

/** What the envelope says, before anybody has looked at a signature. @throws AegisError access.untrusted */
export const readTrustPayload = (payload: string): TrustBundle => {
  if (payload.length > (MAX_TRUST_PAYLOAD_BYTES / 3) * 4) throw untrusted('it is larger than any trust bundle');
  try {
    return z.parse(TrustBundle, parseStrictJson(Buffer.from(payload, 'base64').toString('utf8')));
  } catch (cause) {
    throw untrusted('it is not a trust bundle', cause);
  }
};

/** @throws AegisError access.untrusted */
export const requireRootSignatures = (envelope: Envelope, root: TrustRoot, whose = 'root'): void => {
  const { count, enough } = rootSignatures(envelope, root);
  if (enough) return;
  if (count === 0) throw untrusted(`its ${whose} signature is wrong`);
  const who = root.persons ? 'persons' : 'keys';
  throw untrusted(`${count} of the ${root.threshold} ${whose} ${who} that it needs signed it`);
};

/** @throws AegisError access.untrusted */
export const requireSound = (bundle: TrustBundle, nowMs: number): void => {
  if (!(Date.parse(bundle.expires_at) > nowMs)) throw untrusted(`it expired at ${bundle.expires_at}`);
  if (new Set(bundle.keys.map(({ keyid }) => keyid)).size < bundle.keys.length)
    throw untrusted('it lists a key twice, so that nobody can say what the key may do');
};

/** Opens a bundle whose own root has this fingerprint, and signed it as often as its threshold says.
 *  `rootFingerprint` null trusts the root that the bundle itself names: only for first contact under `--dev`.
 *  @throws AegisError access.untrusted */
export const openTrustBundle = (
  envelope: Envelope,
  rootFingerprint: string | null,
  nowMs: number,
): { bundle: TrustBundle; rootFingerprint: string } => {
  // Unverified until the signatures below: only the pinned fingerprint says which root's count.
  const bundle = readTrustPayload(envelope.payload);
  const own = rootFingerprintOf(bundle.root);
  if (rootFingerprint !== null && own !== rootFingerprint)
    throw untrusted('its root key is not the one that the join token names');
  requireRootSignatures(envelope, bundle.root);
  requireSound(bundle, nowMs);
  return { bundle, rootFingerprint: own };
};

/** The active keys of a bundle with this usage, by key id. A key listed under an id that is not its own is left out, and so is a server's key
 *  whose time is over. */
export const keysFor = (
  bundle: TrustBundle,
  usage: KeyUsage,
  nowMs = Number.NEGATIVE_INFINITY,
): Map<string, KeyObject> => {
  const found = new Map<string, KeyObject>();
  for (const key of bundle.keys) {
    const raw = Buffer.from(key.public_key, 'base64');
    const isOver = key.until !== undefined && Date.parse(key.until) <= nowMs;
    if (key.state === 'active' && !isOver && key.usage.includes(usage) && keyIdOf(raw) === key.keyid)
      found.set(key.keyid, publicKeyFromRaw(raw));
  }
  return found;
};
