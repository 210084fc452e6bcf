import * as z from 'zod/mini';
import { endpoint } from '../endpoint.ts';
import { Envelope } from './dsse.ts';
import { NewTrustedKey } from './endpoints.ts';
import { MAX_ROOT_KEYS, TrustHead } from './trust-bundle.ts';

/** The trust bundle's versions: walked by nodes that were away, and drafted here for those who keep the root's keys elsewhere. */

const tag = 'access';
const DAY_SEC = 24 * 3600;
/** As `openEnvelope` bounds it: no draft asks for more. */
const MAX_SIGNATURES = 16;
const Signature = Envelope.shape.signatures.def.element;

export const walkTrust = endpoint({
  id: 'walkTrust',
  door: 'api',
  method: 'GET',
  path: '/api/v1/trust/versions',
  caller: 'anyone',
  tag,
  summary: 'Versions of the trust bundle one after the other, for whoever holds an older one',
  query: z.object({ from: z.coerce.number().check(z.int(), z.minimum(1), z.maximum(1_000_000_000)) }),
  /** Some of them, in order and without a gap; none when there is no such version. */
  response: z.object({ trust_bundles: z.array(Envelope), newest: z.int() }),
});

const PublicKey = NewTrustedKey.shape.public_key;
/** What a next version is to be. */
export const TrustChange = z.strictObject({
  add: z.optional(z.array(NewTrustedKey).check(z.maxLength(64))),
  /** Ids, as `aegis access keys list` shows them. */
  revoke: z.optional(z.array(z.string().check(z.minLength(1), z.maxLength(64))).check(z.maxLength(64))),
  /** Another server key; the present ones count so many seconds more. */
  server_key: z.optional(z.strictObject({ overlap_sec: z.int().check(z.minimum(0), z.maximum(90 * DAY_SEC)) })),
  root: z.optional(
    z.union([
      z.strictObject({
        threshold: z.int().check(z.minimum(1), z.maximum(MAX_ROOT_KEYS)),
        keys: z
          .array(z.strictObject({ public_key: PublicKey, person: NewTrustedKey.shape.person }))
          .check(z.minLength(1), z.maxLength(MAX_ROOT_KEYS)),
      }),
      /** A new key that the server makes and keeps. */
      z.strictObject({ on_server: z.literal(true) }),
    ]),
  ),
  merges: z.optional(z.array(TrustHead).check(z.maxLength(16))),
  lifetime_sec: z.optional(z.int().check(z.minimum(DAY_SEC), z.maximum(20 * 366 * DAY_SEC))),
});
export type TrustChange = z.infer<typeof TrustChange>;

/** The file that goes from one who signs to the next: a version that is not signed enough yet, and the one before it. */
export const TrustDraft = z.strictObject({
  format: z.literal('aegis-trust-draft-1'),
  before: Envelope,
  payload: Envelope.shape.payload,
  signatures: z.array(Signature).check(z.maxLength(MAX_SIGNATURES)),
});
export type TrustDraft = z.infer<typeof TrustDraft>;

export const draftTrust = endpoint({
  id: 'draftTrust',
  door: 'api',
  method: 'POST',
  path: '/api/v1/trust/draft',
  caller: 'admin',
  scope: 'fleet',
  tag,
  summary: 'Draft the next trust bundle, signed by the root keys that the server has; nothing changes yet',
  body: TrustChange,
  response: TrustDraft,
});

export const publishTrust = endpoint({
  id: 'publishTrust',
  door: 'api',
  method: 'POST',
  path: '/api/v1/trust',
  caller: 'admin',
  scope: 'fleet',
  tag,
  summary: 'Put the next trust bundle in force, signed by the root',
  body: z.strictObject({ trust_bundle: Envelope }),
  response: z.object({
    trust_version: z.int(),
    /** `VERSION:DIGEST`, which names it for good. */
    head: z.string(),
    root_fingerprint: z.string(),
    expires_at: z.string(),
  }),
});
