import type { KeyObject } from 'node:crypto';
import { Envelope } from '@aegis/protocol/access/dsse';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { type OperatorKey, operatorKeysOf } from '@aegis/protocol/access/operators';
import { keysFor, requireSound, rootFingerprintOf, type TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { ageOf, digestOf, type HeldTrust, type TrustAge } from '@aegis/protocol/access/trust-chain';
import { type ArtifactKey, artifactKeysOf } from '@aegis/protocol/artifacts/signature';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import type { HttpClient } from '../platform/http/client.ts';
import type { Logger } from '../platform/log.ts';
import { opened, type Pinned, readTrust, writeTrust } from './trust-file.ts';
import { walk } from './trust-walk.ts';

/** Whom this node trusts: the newest trust bundle that follows, step by step, from the one that it pinned at its enrolment. It moves forward
 *  only: an older one, another one of the same version, one after a version that nobody shows, one that brings a revoked key back, one of a
 *  foreign root or fleet, and an expired one are refused, whoever shows them. What is on disk: trust-file.ts. */

export interface TrustStore {
  /** Null when nothing on disk is of the pinned root: then nobody is trusted until a server shows one that is. */
  current(): TrustBundle | null;
  /** 0 when there is none. */
  version(): number;
  /** `VERSION:DIGEST` of it, which names it for good. */
  head(): string | null;
  /** How near its end it is; `expired` when there is none. */
  age(): TrustAge;
  /** Keys that servers sign with. The same map while they stay the same; empty when the bundle has expired. */
  signers(): ReadonlyMap<string, KeyObject>;
  /** And those that operators sign with. */
  operators(): ReadonlyMap<string, OperatorKey>;
  /** Keys that may sign artifacts, the revoked ones too; none when the bundle has expired. */
  artifactKeys(): readonly ArtifactKey[];
  /** Asks the server for its bundle. What is refused is logged once and changes nothing.
   *  @returns whether another one is in force now
   *  @throws Unreachable, AegisError as the client */
  refresh(): Promise<boolean>;
  /** The same when this version is newer than what is here; for one that the server named and did not show, not at once again. */
  refreshIfNewer(version: number): Promise<void>;
  /** The same when one of these key ids, which something signed names, is nowhere in the bundle: the server may have got another key. */
  refreshIfUnknown(keyIds: readonly string[]): Promise<void>;
  /** Told when another bundle came into force. */
  onChange(callback: () => void): void;
}

export interface TrustStoreOptions {
  dataDir: string;
  identity: Pinned;
  client: HttpClient;
  clock: Clock;
  log: Logger;
}

interface Held extends HeldTrust {
  expiresAtMs: number;
  signers: ReadonlyMap<string, KeyObject>;
  /** When one of the signers' time is over. */
  signersUntilMs: number;
  operators: ReadonlyMap<string, OperatorKey>;
  artifactKeys: readonly ArtifactKey[];
  stored: boolean;
}

/** A version that was named and not shown is not asked for again before this. */
const PAUSE_MS = 10_000;
const NOBODY: ReadonlyMap<string, never> = new Map<string, never>();

/** @throws AegisError config.invalid when trust.json is not a private file */
export const trustStore = ({ dataDir, identity, client, clock, log }: TrustStoreOptions): TrustStore => {
  const callbacks: (() => void)[] = [];
  const said = new Set<string>();
  const sayOnce = (level: 'error' | 'warn', message: string, fields: object = {}): void => {
    if (said.has(message)) return;
    if (said.size >= 100) said.clear();
    said.add(message);
    log[level](fields, message);
  };

  const inUse = (trust: HeldTrust, stored: boolean): Held => ({
    ...trust,
    ...signersOf(trust.bundle, clock.now()),
    expiresAtMs: Date.parse(trust.bundle.expires_at),
    operators: operatorKeysOf(trust.bundle),
    artifactKeys: artifactKeysOf(trust.bundle),
    stored,
  });

  const disk = readTrust(dataDir, identity);
  let held = disk.newest && inUse(disk.newest, true);
  let rootChanges = disk.rootChanges;
  if (disk.error)
    sayOnce(
      'error',
      'the stored trust bundle is damaged or not of the pinned root: nothing is obeyed until the server shows one that is',
      { err: disk.error },
    );

  const ageAndWarn = (): TrustAge => {
    if (!held) return 'expired';
    const age = ageOf(held.bundle, clock.now());
    if (age === 'expired')
      sayOnce(
        'error',
        `the trust bundle expired at ${held.bundle.expires_at}: nothing is obeyed until the server shows a newer one; look at this machine's clock too`,
      );
    if (age === 'expiring')
      sayOnce(
        'warn',
        `the trust bundle expires at ${held.bundle.expires_at}, and then nothing is obeyed: whoever holds the root key renews it (aegis access trust draft)`,
      );
    return age;
  };
  const inForce = (): Held | null => {
    const now = clock.now();
    if (!held || !(held.expiresAtMs > now)) {
      if (held) ageAndWarn();
      return null;
    }
    if (held.signersUntilMs <= now) held = { ...held, ...signersOf(held.bundle, now) };
    return held;
  };

  const store = (envelope: Envelope, next: Held): void => {
    try {
      writeTrust(dataDir, envelope, rootChanges);
      next.stored = true;
    } catch (error) {
      // In force all the same: what it revokes is refused from now on, and after a restart once the server was asked again.
      log.error({ err: error }, 'the new trust bundle cannot be stored, trying again when it is next asked for');
    }
  };
  const comeIntoForce = (next: HeldTrust, envelope: Envelope, changes: readonly Envelope[]): void => {
    const before = held;
    held = inUse(next, false);
    rootChanges = changes;
    store(envelope, held);
    said.clear();
    log.info({ trust_version: next.bundle.version }, 'a new trust bundle is in force');
    if (before && changes.length > 0 && rootFingerprintOf(before.bundle.root) !== rootFingerprintOf(next.bundle.root))
      log.warn({ root_fingerprint: rootFingerprintOf(next.bundle.root) }, 'the root of all trust is another one now');
    for (const callback of callbacks) callback();
  };

  /** @throws AegisError access.untrusted */
  const take = async (shown: Envelope): Promise<void> => {
    if (held && shown.payload === held.payload) {
      if (!held.stored) store(shown, held);
      return;
    }
    const from: HeldTrust | null = held ?? disk.first;
    if (!from) {
      const anew = opened(shown, identity.root_fingerprint, identity.fleet);
      requireSound(anew.bundle, clock.now());
      return comeIntoForce(anew, shown, []);
    }
    if (!held && shown.payload === from.payload) return comeIntoForce(from, shown, []);
    const walked = await walk(client, from, shown);
    if (walked.envelope) {
      requireSound(walked.held.bundle, clock.now());
      comeIntoForce(walked.held, walked.envelope, [...rootChanges, ...walked.rootChanges]);
    }
    if (walked.refused) throw walked.refused;
  };

  let fetching: Promise<boolean> | null = null;
  let missed = { version: 0, at: 0 };
  let unknownAt = Number.NEGATIVE_INFINITY;
  const fetchOnce = async (): Promise<boolean> => {
    const before = held?.payload;
    const { trust_bundle } = await client.call(showTrust, { authorised: false });
    try {
      await take(trust_bundle);
    } catch (error) {
      if (!(error instanceof AegisError)) throw error;
      sayOnce('error', error.message, { code: error.code });
    }
    ageAndWarn();
    return held?.payload !== before;
  };
  const refresh = (): Promise<boolean> => {
    fetching ??= fetchOnce().finally(() => {
      fetching = null;
    });
    return fetching;
  };

  return {
    current: () => held?.bundle ?? null,
    version: () => held?.bundle.version ?? 0,
    head: () => held && `${held.bundle.version}:${digestOf(held)}`,
    age: ageAndWarn,
    signers: () => inForce()?.signers ?? NOBODY,
    operators: () => inForce()?.operators ?? NOBODY,
    artifactKeys: () => inForce()?.artifactKeys ?? [],
    refresh,
    refreshIfNewer: async (version) => {
      const here = () => held?.bundle.version ?? 0;
      if (version <= here() || (version === missed.version && clock.monotonic() - missed.at < PAUSE_MS)) return;
      await refresh();
      if (version > here()) missed = { version, at: clock.monotonic() };
    },
    refreshIfUnknown: async (keyIds) => {
      const known = new Set(held?.bundle.keys.map(({ keyid }) => keyid));
      if (keyIds.every((keyId) => known.has(keyId)) || clock.monotonic() - unknownAt < PAUSE_MS) return;
      if (!(await refresh())) unknownAt = clock.monotonic();
    },
    onChange: (callback) => void callbacks.push(callback),
  };
};

const signersOf = (bundle: TrustBundle, nowMs: number): Pick<Held, 'signers' | 'signersUntilMs'> => {
  const ends = bundle.keys.map(({ until }) => (until === undefined ? Number.NaN : Date.parse(until)));
  return {
    signers: keysFor(bundle, 'serve', nowMs),
    signersUntilMs: Math.min(Number.POSITIVE_INFINITY, ...ends.filter((end) => end > nowMs)),
  };
};

const Named = z.object({ directive: Envelope, operator_directive: z.optional(Envelope) });
/** Who is said to have signed what is offered. Nothing of it is believed here: it says what to ask for. */
export const signersNamedIn = (offers: readonly unknown[]): string[] =>
  offers.flatMap((offer) => {
    const { data } = z.safeParse(Named, offer);
    return data
      ? [...data.directive.signatures, ...(data.operator_directive?.signatures ?? [])].map((one) => one.keyid)
      : [];
  });
