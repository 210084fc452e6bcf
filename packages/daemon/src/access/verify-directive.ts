/** access: whether this node obeys. Checks a directive's signature, form, fleet, target, whose word the node's own policy asks for, what
 *  that allows, times and that it is new, in that order, before anything else looks at it. Called by commands' inbox and by what takes
 *  desired state, through daemon.ts, and by `aegis daemon policy check`. Invariant: whatever is refused here changes nothing but a log line
 *  and a `refused` report. Must not: know what a directive is for, or trust the offer that it came in. */
import type { KeyObject } from 'node:crypto';
import { Directive, type DirectiveKind, FUTURE_TOLERANCE_MS, MAX_LIFETIME_MS } from '@aegis/protocol/access/directive';
import { type Envelope, openEnvelope, PAYLOAD_TYPES } from '@aegis/protocol/access/dsse';
import { meansNode, type OperatorKey, personsOf, reaches } from '@aegis/protocol/access/operators';
import { parseStrictJson } from '@aegis/protocol/access/strict-json';
import type { Selectable } from '@aegis/protocol/commands/selector';
import type { ErrorCode } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import {
  type CommandFacts,
  limitsOn,
  obeyFor,
  obeyText,
  PART_OF_KIND,
  type Policy,
  personsNeeded,
  REMEDY,
} from './policy.ts';

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
  | { kind: 'good'; directive: DesiredDirective; issuedAtMs: number; byOperators: boolean }
  /** `directive`: genuine and for this node, but not to be obeyed; null where nothing in it may be believed. */
  | { kind: 'refused'; code: ErrorCode; message: string; directive: DesiredDirective | null };

export interface Seen {
  has(directiveId: string, attempt: number): boolean;
  /** What was issued at or before this is refused, whatever the clock says. */
  floorMs(): number;
}

/** What came for one execution: the server's directive, and beside it the operators' own where there is one. */
export interface Offered {
  directive: Envelope;
  operator_directive?: Envelope | undefined;
}

export interface DirectiveVerifier {
  /** Of a command: each (id, attempt) is obeyed once. The server's directive where its word is enough, else the operators'. */
  verify(offered: Offered, attempt: number): Verdict;
  /** Of desired state: the same signature, fleet, target, policy and times; instead of attempts its generation, which the caller compares. */
  verifyDesired(envelope: Envelope): DesiredVerdict;
  /** Those of the server's and of the operators' directives of desired state that are to be looked at here, by each kind's policy. */
  chooseDesired(servers: readonly unknown[], operators: readonly unknown[]): readonly unknown[];
  /** Every rule that was looked at, in order; the last one decided. */
  explain(envelope: Envelope, attempt: number): Step[];
}

export interface Step {
  rule: 'signature' | 'form' | 'fleet' | 'target' | 'obey' | 'type' | 'user' | 'timeout' | 'time' | 'seen' | 'attempts';
  good: boolean;
  says: string;
  code?: ErrorCode;
}
type Tell = (rule: Step['rule'], says: string) => void;

type Refusal = Extract<Verdict, { kind: 'refused' }> & {
  rule: Step['rule'];
  /** Genuine and for this node, where it is. */
  directive?: Directive;
};

const fatalUtf8 = new TextDecoder('utf-8', { fatal: true });
const DESIRED_KINDS: ReadonlySet<string> = new Set<DirectiveKind>(['artifacts.assign', 'backups.config']);
const untold: Tell = () => undefined;

export interface VerifierOptions {
  fleet: string;
  ownKeyId: string;
  /** Keys of the newest trust bundle that servers sign with. */
  servers(): ReadonlyMap<string, KeyObject>;
  /** And those of operators. */
  operators(): ReadonlyMap<string, OperatorKey>;
  policy(): Policy;
  /** What this node knows of itself, from its own files. */
  self: Selectable;
  /** What a command's body asks for; parts that cannot be read are null, and what cannot be read is not run. */
  factsOf(body: unknown): { type: string | null; facts: CommandFacts | null };
  seen: Seen;
  clock: Clock;
}

export const directiveVerifier = (on: VerifierOptions): DirectiveVerifier => {
  const { fleet, ownKeyId, self, seen, clock } = on;
  const refused = (rule: Step['rule'], code: ErrorCode, message: string): Refusal => ({
    kind: 'refused',
    rule,
    code,
    message,
  });

  /** Whose signatures under it are good. */
  const signersOf = (envelope: Envelope): { payload: Buffer; byServer: boolean; keys: OperatorKey[] } => {
    const operators = on.operators();
    const servers = on.servers();
    const known = new Map(servers);
    for (const [id, { publicKey }] of operators) known.set(id, publicKey);
    const { payload, signedBy } = openEnvelope(envelope, PAYLOAD_TYPES.directive, known);
    const keys = signedBy.flatMap((id) => {
      const key = operators.get(id);
      return key ? [key] : [];
    });
    return { payload, byServer: signedBy.some((id) => servers.has(id)), keys };
  };

  /** What is common to all: signed by those whose word the policy asks for, readable, of this fleet, for this node, allowed, with times that
   *  exist. */
  const open = (envelope: Envelope, tell: Tell): Refusal | Opened => {
    const { payload, byServer, keys } = signersOf(envelope);
    if (!byServer && keys.length === 0)
      return refused(
        'signature',
        'access.bad_signature',
        'The directive carries no good signature of a key that this node obeys. If the server was set up anew, enrol the node anew.',
      );
    tell('signature', `good: ${[...(byServer ? ["the server's"] : []), ...keys.map(keyText)].join(', ')}`);
    let directive: Directive;
    try {
      directive = z.parse(Directive, parseStrictJson(fatalUtf8.decode(payload)));
    } catch (error) {
      const why = error instanceof SyntaxError ? error.message : 'a field is missing, unknown or of the wrong type';
      return refused(
        'form',
        'access.bad_directive',
        `The directive is not one that this release understands (${why}). Give server and node the same release.`,
      );
    }
    tell('form', `a ${directive.kind}, id ${directive.id}`);
    if (directive.fleet !== fleet)
      return refused(
        'fleet',
        'access.wrong_target',
        `The directive is for fleet '${directive.fleet}', this node belongs to '${fleet}'.`,
      );
    tell('fleet', fleet);
    const heard = keys.filter((key) => reaches(key, directive.kind, self));
    const stray = notForHere(directive, heard.length > 0);
    if (stray) return stray;
    tell('target', targetText(directive));
    const denied = againstPolicy(directive, byServer, keys, heard, tell);
    if (denied) return { ...denied, directive };
    const issuedAtMs = Date.parse(directive.issued_at);
    const expiresAtMs = Date.parse(directive.expires_at);
    const notBeforeMs = directive.not_before === undefined ? null : Date.parse(directive.not_before);
    if (![issuedAtMs, expiresAtMs, notBeforeMs ?? 0].every(Number.isFinite))
      return refused('time', 'access.bad_directive', 'The directive names a time that does not exist.');
    return { kind: 'opened', directive, issuedAtMs, notBeforeMs, expiresAtMs, byOperators: heard.length > 0 };
  };

  /** A server names keys. Selectors are for operators: this node judges them by itself. */
  const notForHere = ({ targets }: Directive, byOperators: boolean): Refusal | null => {
    if ('node_keys' in targets)
      return targets.node_keys.includes(ownKeyId)
        ? null
        : refused('target', 'access.wrong_target', "The directive does not name this node's key among its targets.");
    if (!byOperators)
      return refused('target', 'access.wrong_target', "The directive does not name this node's key among its targets.");
    const meant = meansNode(targets.selector, self);
    if (meant) return null;
    return refused(
      'target',
      'access.wrong_target',
      meant === null
        ? `The directive's targets '${targets.selector.slice(0, 200)}' are no selector that a node can judge by itself: sign it for names, sites or labels.`
        : `The directive's targets '${targets.selector.slice(0, 200)}' do not mean this node, by its own configuration (${selfText(self)}): sign it for this node, or set site and labels there.`,
    );
  };

  const againstPolicy = (
    directive: Directive,
    byServer: boolean,
    keys: readonly OperatorKey[],
    heard: readonly OperatorKey[],
    tell: Tell,
  ): Refusal | null => {
    const policy = on.policy();
    const part = PART_OF_KIND[directive.kind];
    const { type, facts } = directive.kind === 'command.run' ? on.factsOf(directive.body) : { type: null, facts: null };
    const { obey, by } = obeyFor(policy, part, type);
    const needed = personsNeeded(obey);
    const persons = needed > 1 ? personsOf(heard).size : heard.length > 0 ? 1 : 0;
    const what = type ?? directive.kind;
    const unmet = needed === 0 ? !byServer && heard.length === 0 : persons < needed;
    if (unmet) {
      const outside = keys.filter((key) => !heard.includes(key));
      const beyond = outside.length > 0 ? ` Beyond their scope here: ${outside.map(keyText).join(', ')}.` : '';
      const remedy =
        heard.length === 0
          ? "Sign it with an operator's key that may order this here (--key FILE, AEGIS_KEY or the context)"
          : `It carries that of ${heard.map(keyText).join(', ')}: have others sign it too ('aegis submit --sign-only', 'aegis access sign')`;
      return refused(
        'obey',
        'access.policy',
        `This node's own policy (${by}) refuses it: for ${what} it ${needed === 0 ? 'wants a signature that reaches here' : obeyText(obey)}.${beyond} ${remedy}; see docs/signing.md.`,
      );
    }
    tell(
      'obey',
      `${by}: for ${what} it ${obeyText(obey)}${needed > 0 ? `; heard: ${heard.map(keyText).join(', ')}` : ''}`,
    );
    if (!facts || !policy.commands) return null;
    for (const { rule, code, says } of limitsOn(policy, facts)) {
      if (code !== null)
        return refused(rule, code, `This node's own policy refuses it: ${says}. ${REMEDY[rule]}; see docs/signing.md.`);
      tell(rule, says);
    }
    return null;
  };

  const fromTheFuture = ({ directive, issuedAtMs }: Opened, now: number): Refusal | null =>
    issuedAtMs - now > FUTURE_TOLERANCE_MS
      ? refused(
          'time',
          'access.stale_directive',
          `The directive was issued at ${directive.issued_at}, which is in the future of this node's clock (${at(now)}): set the clocks right.`,
        )
      : null;

  /** A signature of an operator's binds nobody for longer than nodes remember what they obeyed. */
  const tooLong = ({ directive, issuedAtMs, expiresAtMs }: Opened): Refusal | null =>
    expiresAtMs - issuedAtMs > MAX_LIFETIME_MS
      ? refused(
          'time',
          'access.bad_directive',
          `The directive claims to hold from ${directive.issued_at} to ${directive.expires_at}: at most seven days are allowed.`,
        )
      : null;

  const judge = (envelope: Envelope, attempt: number, tell: Tell): Exclude<Verdict, { kind: 'refused' }> | Refusal => {
    const opened = open(envelope, tell);
    if (opened.kind === 'refused') return opened;
    const { directive, issuedAtMs, notBeforeMs, expiresAtMs } = opened;
    if (directive.object_id !== undefined || directive.generation !== undefined)
      return refused(
        'form',
        'access.bad_directive',
        `The directive, of kind ${directive.kind}, names an object and a generation, as desired state does, and was offered as a command: whoever signed it may have been shown something else.`,
      );
    const now = clock.now();
    if (seen.has(directive.id, attempt)) return { kind: 'seen', directive };
    tell('seen', `attempt ${attempt} of it was not obeyed here before`);
    const early = fromTheFuture(opened, now) ?? (opened.byOperators ? tooLong(opened) : null);
    if (early) return early;
    if (issuedAtMs <= seen.floorMs())
      return refused(
        'seen',
        'access.stale_directive',
        `The directive was issued at ${directive.issued_at}, before what this node still remembers: submit the command anew.`,
      );
    if (attempt > directive.max_attempts)
      return refused(
        'attempts',
        'access.bad_directive',
        `Attempt ${attempt} exceeds the ${directive.max_attempts} that the directive allows.`,
      );
    tell('attempts', `${attempt} of at most ${directive.max_attempts}`);
    if (expiresAtMs <= now)
      return {
        kind: 'expired',
        directive,
        message: `The command expired at ${directive.expires_at}; this node's clock says ${at(now)}.`,
      };
    tell('time', `issued ${directive.issued_at}, expires ${directive.expires_at}`);
    return { kind: 'good', directive, issuedAtMs, notBeforeMs, expiresAtMs };
  };

  const judgeDesired = (envelope: Envelope, tell: Tell): DesiredVerdict | (DesiredVerdict & Refusal) => {
    const opened = open(envelope, tell);
    if (opened.kind === 'refused')
      return { ...opened, directive: opened.directive && isDesired(opened.directive) ? opened.directive : null };
    const { directive, issuedAtMs, notBeforeMs, expiresAtMs } = opened;
    if (!isDesired(directive))
      return {
        ...refused(
          'form',
          'access.bad_directive',
          'The directive is no desired state: it lacks object_id or generation.',
        ),
        directive: null,
      };
    const now = clock.now();
    // The longest life is what makes it safe to forget a tombstone after that time.
    const early = fromTheFuture(opened, now) ?? tooLong(opened);
    if (early) return { ...early, directive };
    if (expiresAtMs <= now || (notBeforeMs ?? 0) > now)
      return {
        ...refused(
          'time',
          'access.stale_directive',
          `The directive holds from ${directive.not_before ?? directive.issued_at} to ${directive.expires_at}; this node's clock says ${at(now)}. If the clocks are right, assign it again.`,
        ),
        directive,
      };
    tell('time', `issued ${directive.issued_at}, expires ${directive.expires_at}`);
    return { kind: 'good', directive, issuedAtMs, byOperators: opened.byOperators };
  };

  return {
    verify: ({ directive, operator_directive }, attempt) => {
      const servers = judge(directive, attempt, untold);
      return servers.kind !== 'refused' || !operator_directive ? servers : judge(operator_directive, attempt, untold);
    },
    verifyDesired: (envelope) => judgeDesired(envelope, untold),
    chooseDesired: (servers, operators) => {
      const wantsOperators = (kind: string): boolean =>
        Object.hasOwn(PART_OF_KIND, kind) &&
        personsNeeded(obeyFor(on.policy(), PART_OF_KIND[kind as keyof typeof PART_OF_KIND], null).obey) > 0;
      const own = operators.map(claimOf).filter(({ kind }) => wantsOperators(kind));
      const covered = new Set(own.map(({ key }) => key));
      const theirs = servers.filter((one) => covered.size === 0 || !covered.has(claimOf(one).key));
      return [...theirs, ...own.map(({ one }) => one)];
    },
    explain: (envelope, attempt) => {
      const steps: Step[] = [];
      const tell: Tell = (rule, says) => void steps.push({ rule, good: true, says });
      const end = (rule: Step['rule'], code: ErrorCode, says: string) => steps.push({ rule, good: false, says, code });
      const desired = DESIRED_KINDS.has(claimOf(envelope).kind);
      const verdict = desired ? judgeDesired(envelope, tell) : judge(envelope, attempt, tell);
      if (verdict.kind === 'refused') end('rule' in verdict ? verdict.rule : 'form', verdict.code, verdict.message);
      else if (verdict.kind === 'expired') end('time', 'commands.expired', verdict.message);
      else if (verdict.kind === 'seen')
        end('seen', 'access.stale_directive', `Attempt ${attempt} of it was obeyed here before: it is not repeated.`);
      return steps;
    },
  };
};

interface Opened {
  kind: 'opened';
  directive: Directive;
  issuedAtMs: number;
  notBeforeMs: number | null;
  expiresAtMs: number;
  byOperators: boolean;
}
const isDesired = (directive: Directive): directive is DesiredDirective =>
  directive.object_id !== undefined && directive.generation !== undefined;

/** What an envelope says that it is about, before anybody has looked at its signature. */
const claimOf = (one: unknown): { one: unknown; kind: string; key: string } => {
  try {
    const payload = Buffer.from(String((one as { payload?: unknown }).payload), 'base64').toString('utf8');
    const { kind, object_id } = JSON.parse(payload) as Record<string, unknown>;
    return { one, kind: String(kind), key: `${kind} ${object_id}` };
  } catch {
    return { one, kind: '', key: '' };
  }
};

const keyText = ({ name, person, keyId }: OperatorKey): string =>
  person === null ? `'${name}' (${keyId.slice(0, 16)})` : `${person}'s '${name}'`;
const targetText = ({ targets }: Directive): string =>
  'node_keys' in targets ? "names this node's key" : `'${targets.selector.slice(0, 200)}' means this node`;
const selfText = ({ name, site, labels }: Selectable): string =>
  [
    `name=${name}`,
    ...(site === null ? [] : [`site=${site}`]),
    ...Object.entries(labels).map(([key, value]) => `label.${key}=${value}`),
  ].join(' ');
const at = (ms: number): string => new Date(ms).toISOString();
