import * as z from 'zod/mini';
import { type Envelope, PAYLOAD_TYPES, signEnvelope, signEnvelopeInPool } from './dsse.ts';
import type { KeyPair } from './keys.ts';

/** A directive: the only thing a daemon obeys. Signed as DSSE; (id, attempt) is seen once. */

const Instant = z.iso.datetime();

export const DirectiveKind = z.enum(['command.run', 'command.cancel', 'artifacts.assign', 'backups.config']);
export type DirectiveKind = z.infer<typeof DirectiveKind>;

export const Directive = z.strictObject({
  fleet: z.string(),
  id: z.uuid(),
  kind: DirectiveKind,
  /** A keyless poller has no key id: its directives name it by selector, and no daemon with a key obeys those. */
  targets: z.union([
    z.strictObject({ node_keys: z.array(z.string().check(z.regex(/^[0-9a-f]{64}$/))).check(z.minLength(1)) }),
    z.strictObject({ selector: z.string() }),
  ]),
  issued_at: Instant,
  not_before: z.optional(Instant),
  expires_at: Instant,
  max_attempts: z.int().check(z.positive(), z.maximum(100)),
  /** Of desired state: which object, and the number of this wish for it. */
  object_id: z.optional(z.string().check(z.minLength(1), z.maxLength(128))),
  generation: z.optional(z.int().check(z.positive())),
  body: z.unknown(),
});
export type Directive = z.infer<typeof Directive>;

export const signDirective = (directive: Directive, key: KeyPair): Envelope =>
  signEnvelope(PAYLOAD_TYPES.directive, directive, key);
/** The same bytes, made in the thread pool. */
export const signDirectiveInPool = (directive: Directive, key: KeyPair): Promise<Envelope> =>
  signEnvelopeInPool(PAYLOAD_TYPES.directive, directive, key);

/** Directives may be issued this much in the future of the node's clock, and are remembered this long. */
export const FUTURE_TOLERANCE_MS = 5 * 60_000;
export const MAX_LIFETIME_MS = 7 * 24 * 3_600_000;
