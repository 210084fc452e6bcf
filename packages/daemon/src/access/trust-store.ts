import type { KeyObject } from 'node:crypto';
import { join } from 'node:path';
import { Envelope } from '@aegis/protocol/access/dsse';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { type OperatorKey, operatorKeysOf } from '@aegis/protocol/access/operators';
import { keysFor, openTrustBundle, type TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { type ArtifactKey, artifactKeysOf } from '@aegis/protocol/artifacts/signature';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import type { HttpClient } from '../platform/http/client.ts';
import type { Logger } from '../platform/log.ts';
import { readPrivateFile, writePrivateFile } from '../platform/private-files.ts';

/** Whom this node trusts: the newest trust bundle that the pinned root signed, of those that it has ever been shown. It moves forward only:
 *  an older one, another one of the same version, one that brings a revoked key back, one of a foreign root or fleet, and an expired one are
 *  refused, whoever shows them.
 *  The one of the enrolment stays in identity.json; the newest is in trust.json beside it. */

export interface TrustStore {
  /** Null when nothing on disk is of the pinned root: then nobody is trusted until a server shows one that is. */
  current(): TrustBundle | null;
  /** 0 when there is none. */
  version(): number;
  /** Keys that servers sign with. The same map while the bundle stays the same; empty when it has expired. */
  signers(): ReadonlyMap<string, KeyObject>;
  /** And those that operators sign with. */
  operators(): ReadonlyMap<string, OperatorKey>;
  /** Keys that may sign artifacts, the revoked ones too; none when the bundle has expired. */
  artifactKeys(): readonly ArtifactKey[];
  /** Asks the server for its bundle. What is refused is logged once and changes nothing. @throws Unreachable, AegisError as the client */
  refresh(): Promise<void>;
  /** The same when this version is newer than what is here; for one that the server named and did not show, not at once again. */
  refreshIfNewer(version: number): Promise<void>;
  /** Told when another bundle came into force. */
  onChange(callback: () => void): void;
}

export interface TrustStoreOptions {
  dataDir: string;
  /** What this node pinned at its enrolment. */
  identity: { fleet: string; root_fingerprint: string; trust_bundle: Envelope };
  client: HttpClient;
  clock: Clock;
  log: Logger;
}

interface Held {
  bundle: TrustBundle;
  payload: string;
  expiresAtMs: number;
  signers: ReadonlyMap<string, KeyObject>;
  operators: ReadonlyMap<string, OperatorKey>;
  artifactKeys: readonly ArtifactKey[];
  stored: boolean;
}

const Stored = z.object({ trust_bundle: Envelope });
const fileOf = (dataDir: string): string => join(dataDir, 'trust.json');
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

  /** @throws AegisError access.untrusted */
  const opened = (envelope: Envelope, nowMs: number, stored: boolean): Held => {
    const { bundle } = openTrustBundle(envelope, identity.root_fingerprint, nowMs);
    if (bundle.fleet !== identity.fleet)
      throw new AegisError(
        'access.untrusted',
        `The server's trust bundle is refused: it is of the fleet '${bundle.fleet}', this node belongs to '${identity.fleet}'.`,
      );
    return {
      bundle,
      payload: envelope.payload,
      expiresAtMs: Date.parse(bundle.expires_at),
      signers: keysFor(bundle, 'serve'),
      operators: operatorKeysOf(bundle),
      artifactKeys: artifactKeysOf(bundle),
      stored,
    };
  };

  /** What is on disk counts whatever the clock says by now: when it expired is seen at each use. */
  const fromDisk = (envelope: Envelope): Held => opened(envelope, Number.NEGATIVE_INFINITY, true);
  /** No version below the enrolment's is taken, also when what came after it is lost. */
  let floor = 0;
  const atStart = (): Held | null => {
    try {
      const first = fromDisk(identity.trust_bundle);
      floor = first.bundle.version;
      const text = readPrivateFile(fileOf(dataDir));
      if (text === null) return first;
      const newest = fromDisk(storedIn(text));
      return newest.bundle.version > first.bundle.version ? newest : first;
    } catch (error) {
      if (!(error instanceof AegisError) || error.code === 'config.invalid') throw error;
      // Not the enrolment's in its place: that would forget revocations. What runs is still followed and reported.
      sayOnce(
        'error',
        'the stored trust bundle is damaged or not of the pinned root: nothing is obeyed until the server shows one that is',
        { err: error },
      );
      return null;
    }
  };
  let held = atStart();

  const inForce = (): Held | null => {
    if (held && held.expiresAtMs > clock.now()) return held;
    if (held)
      sayOnce(
        'error',
        `the trust bundle expired at ${held.bundle.expires_at}: nothing is obeyed until the server shows a newer one; look at this machine's clock too`,
      );
    return null;
  };

  const store = (envelope: Envelope, next: Held): void => {
    try {
      writePrivateFile(fileOf(dataDir), `${JSON.stringify({ trust_bundle: envelope })}\n`);
      next.stored = true;
    } catch (error) {
      // In force all the same: what it revokes is refused from now on, and after a restart once the server was asked again.
      log.error({ err: error }, 'the new trust bundle cannot be stored, trying again when it is next asked for');
    }
  };

  const take = (envelope: Envelope): void => {
    const next = opened(envelope, clock.now(), false);
    const here = held?.bundle.version ?? floor;
    if (next.bundle.version < here)
      throw new AegisError(
        'access.untrusted',
        `The server's trust bundle is refused: it is version ${next.bundle.version}, this node has ${here}. Was the server restored from an old backup?`,
      );
    if (held && next.bundle.version === here) {
      if (next.payload !== held.payload)
        throw new AegisError(
          'access.untrusted',
          `The server's trust bundle is refused: it is another one than the version ${here} that this node has. Was the server restored from an old backup?`,
        );
      if (!held.stored) store(envelope, held);
      return;
    }
    const back = held && broughtBack(held.bundle, next.bundle);
    if (back)
      throw new AegisError(
        'access.untrusted',
        `The server's trust bundle is refused: it brings back the key '${back.name}' (${back.minisign_id ?? back.keyid.slice(0, 16)}), which was revoked. Was the server restored from an old backup? Revoke that key anew.`,
      );
    store(envelope, next);
    held = next;
    said.clear();
    log.info({ trust_version: next.bundle.version }, 'a new trust bundle is in force');
    for (const callback of callbacks) callback();
  };

  let fetching: Promise<void> | null = null;
  let missed = { version: 0, at: 0 };
  const fetchOnce = async (): Promise<void> => {
    const { trust_bundle } = await client.call(showTrust, { authorised: false });
    try {
      take(trust_bundle);
    } catch (error) {
      if (!(error instanceof AegisError)) throw error;
      sayOnce('error', error.message, { code: error.code });
    }
  };
  const refresh = (): Promise<void> => {
    fetching ??= fetchOnce().finally(() => {
      fetching = null;
    });
    return fetching;
  };

  return {
    current: () => held?.bundle ?? null,
    version: () => held?.bundle.version ?? 0,
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
    onChange: (callback) => void callbacks.push(callback),
  };
};

/** A key that was revoked and shall count again: so a server that was set back in time forgets a revocation, even where the root has signed
 *  what it shows. */
const broughtBack = (before: TrustBundle, after: TrustBundle): TrustBundle['keys'][number] | undefined => {
  const revoked = new Set(before.keys.filter(({ state }) => state === 'revoked').map(({ keyid }) => keyid));
  return after.keys.find(({ keyid, state }) => state === 'active' && revoked.has(keyid));
};

const storedIn = (text: string): Envelope => {
  try {
    return z.parse(Stored, JSON.parse(text)).trust_bundle;
  } catch (cause) {
    throw new AegisError('access.untrusted', 'trust.json is damaged.', { cause });
  }
};
