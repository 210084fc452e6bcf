/** access: whether this node obeys. Checks a directive's signature, signer, form, fleet, target, times and that it is new, in
 *  that order, before anything else looks at it. Called by commands' inbox and by what takes desired state, through daemon.ts. Invariant: whatever is refused
 *  here changes nothing but a log line and a `refused` report. Must not: know what a directive is for, or trust the offer
 *  that it came in. */
import type { KeyObject } from 'node:crypto';
import { Directive, FUTURE_TOLERANCE_MS, MAX_LIFETIME_MS } from '@aegis/protocol/access/directive';
import { type Envelope, openEnvelope, PAYLOAD_TYPES } from '@aegis/protocol/access/dsse';
import { parseStrictJson } from '@aegis/protocol/access/strict-json';
import type { ErrorCode } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';

export type Verdict =
  | { kind: 'good'; directive: Directive; issuedAtMs: number; notBeforeMs: number | null; expiresAtMs: number }
  /** This (id, attempt) was accepted before: acknowledge it again, do nothing more. */
  | { kind: 'seen'; directive: Directive }
  /** Genuine, but its time is over. */
  | { kind: 'expired'; directive: Directive; message: string }
  | { kind: 'refused'; code: ErrorCode; message: string };

/** Of a piece of desired state: which object, and the number of this wish for it. Whether the number is new, its holder knows. */
export type DesiredDirective = Directive & { object_id: string; generation: number };
export type DesiredVerdict =
  | { kind: 'good'; directive: DesiredDirective; issuedAtMs: number }
  /** `directive`: genuine and for this node, but not to be obeyed; null where nothing in it may be believed. */
  | { kind: 'refused'; code: ErrorCode; message: string; directive: DesiredDirective | null };

export interface Seen {
  has(directiveId: string, attempt: number): boolean;
  /** What was issued at or before this is refused, whatever the clock says. */
  floorMs(): number;
}

export interface DirectiveVerifier {
  /** Of a command: each (id, attempt) is obeyed once. */
  verify(envelope: Envelope, attempt: number): Verdict;
  /** Of desired state: the same signature, fleet, target and times; instead of attempts its generation, which the caller compares. */
  verifyDesired(envelope: Envelope): DesiredVerdict;
}

type Refusal = Extract<Verdict, { kind: 'refused' }>;

const fatalUtf8 = new TextDecoder('utf-8', { fatal: true });

export const directiveVerifier = ({
  fleet,
  ownKeyId,
  signers,
  seen,
  clock,
}: {
  fleet: string;
  ownKeyId: string;
  /** Keys of the newest trust bundle that may give orders. */
  signers(): ReadonlyMap<string, KeyObject>;
  seen: Seen;
  clock: Clock;
}): DirectiveVerifier => {
  const refused = (code: ErrorCode, message: string): Refusal => ({ kind: 'refused', code, message });

  /** What is common to all: signed by one of ours, readable, of this fleet, for this node, with times that exist. */
  const open = (envelope: Envelope): Refusal | Opened => {
    const { payload, signedBy } = openEnvelope(envelope, PAYLOAD_TYPES.directive, signers());
    if (signedBy.length === 0)
      return refused(
        'access.bad_signature',
        'The directive carries no good signature of a key that this node obeys. If the server was set up anew, enrol the node anew.',
      );
    let directive: Directive;
    try {
      directive = z.parse(Directive, parseStrictJson(fatalUtf8.decode(payload)));
    } catch (error) {
      const why = error instanceof SyntaxError ? error.message : 'a field is missing, unknown or of the wrong type';
      return refused(
        'access.bad_directive',
        `The directive is not one that this release understands (${why}). Give server and node the same release.`,
      );
    }
    if (directive.fleet !== fleet)
      return refused(
        'access.wrong_target',
        `The directive is for fleet '${directive.fleet}', this node belongs to '${fleet}'.`,
      );
    if (!('node_keys' in directive.targets) || !directive.targets.node_keys.includes(ownKeyId))
      return refused('access.wrong_target', "The directive does not name this node's key among its targets.");
    const issuedAtMs = Date.parse(directive.issued_at);
    const expiresAtMs = Date.parse(directive.expires_at);
    const notBeforeMs = directive.not_before === undefined ? null : Date.parse(directive.not_before);
    if (![issuedAtMs, expiresAtMs, notBeforeMs ?? 0].every(Number.isFinite))
      return refused('access.bad_directive', 'The directive names a time that does not exist.');
    return { kind: 'opened', directive, issuedAtMs, notBeforeMs, expiresAtMs };
  };
  const fromTheFuture = ({ directive, issuedAtMs }: Opened, now: number): Refusal | null =>
    issuedAtMs - now > FUTURE_TOLERANCE_MS
      ? refused(
          'access.stale_directive',
          `The directive was issued at ${directive.issued_at}, which is in the future of this node's clock (${at(now)}): set the clocks right.`,
        )
      : null;

  return {
    verify: (envelope, attempt) => {
      const opened = open(envelope);
      if (opened.kind === 'refused') return opened;
      const { directive, issuedAtMs, notBeforeMs, expiresAtMs } = opened;
      const now = clock.now();
      if (seen.has(directive.id, attempt)) return { kind: 'seen', directive };
      const early = fromTheFuture(opened, now);
      if (early) return early;
      if (issuedAtMs <= seen.floorMs())
        return refused(
          'access.stale_directive',
          `The directive was issued at ${directive.issued_at}, before what this node still remembers: submit the command anew.`,
        );
      if (attempt > directive.max_attempts)
        return refused(
          'access.bad_directive',
          `Attempt ${attempt} exceeds the ${directive.max_attempts} that the directive allows.`,
        );
      if (expiresAtMs <= now)
        return {
          kind: 'expired',
          directive,
          message: `The command expired at ${directive.expires_at}; this node's clock says ${at(now)}.`,
        };
      return { kind: 'good', directive, issuedAtMs, notBeforeMs, expiresAtMs };
    },
    verifyDesired: (envelope) => {
      const opened = open(envelope);
      if (opened.kind === 'refused') return { ...opened, directive: null };
      const { directive, issuedAtMs, notBeforeMs, expiresAtMs } = opened;
      if (!isDesired(directive))
        return {
          ...refused('access.bad_directive', 'The directive is no desired state: it lacks object_id or generation.'),
          directive: null,
        };
      const now = clock.now();
      const early = fromTheFuture(opened, now);
      if (early) return { ...early, directive };
      // The longest life is what makes it safe to forget a tombstone after that time.
      if (expiresAtMs - issuedAtMs > MAX_LIFETIME_MS)
        return {
          ...refused(
            'access.bad_directive',
            `The directive claims to hold from ${directive.issued_at} to ${directive.expires_at}: at most seven days are allowed.`,
          ),
          directive,
        };
      if (expiresAtMs <= now || (notBeforeMs ?? 0) > now)
        return {
          ...refused(
            'access.stale_directive',
            `The directive holds from ${directive.not_before ?? directive.issued_at} to ${directive.expires_at}; this node's clock says ${at(now)}. If the clocks are right, assign it again.`,
          ),
          directive,
        };
      return { kind: 'good', directive, issuedAtMs };
    },
  };
};

interface Opened {
  kind: 'opened';
  directive: Directive;
  issuedAtMs: number;
  notBeforeMs: number | null;
  expiresAtMs: number;
}
const isDesired = (directive: Directive): directive is DesiredDirective =>
  directive.object_id !== undefined && directive.generation !== undefined;

const at = (ms: number): string => new Date(ms).toISOString();
