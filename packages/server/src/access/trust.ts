import { type Envelope, PAYLOAD_TYPES } from '@aegis/protocol/access/dsse';
import { type KeyPair, rawPublicKey } from '@aegis/protocol/access/keys';
import {
  keysFor,
  openTrustBundle,
  readTrustPayload,
  requireSound,
  rootFingerprintOf,
  rootKeyIds,
  rootSignatures,
  signTrustBundle,
  type TrustBundle,
} from '@aegis/protocol/access/trust-bundle';
import { ageOf, digestOf, followTrust, type TrustAge } from '@aegis/protocol/access/trust-chain';
import type { TrustChange, TrustDraft } from '@aegis/protocol/access/trust-endpoints';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import type { Clock } from '../platform/clock.ts';
import { BUNDLE_LIFETIME_MS, type FleetKeys } from './fleet-keys.ts';
import { pendingKey, rootKeysIn, serverKeyIn } from './key-files.ts';
import {
  addToTrustChain,
  envelopeOfVersion,
  nextInTrustChain,
  removeTrustDrafts,
  type TrustVersion,
} from './trust-chain.ts';
import { keyOf, rootOf, settled, withKey, withoutKey, withServerKey } from './trust-changes.ts';

/** The trust bundle that is in force, and how it changes: always by a new version that the root signs. Only servers that run on
 *  the data directory change it, and only through its API. The root's keys are read for the moment of a change; where they are kept elsewhere,
 *  the version is drafted here, signed there, and published here. */

export interface Trust {
  /** The newest version. */
  current(): TrustVersion;
  rootFingerprint(): string;
  /** The key that this server signs with, whichever it is by now. */
  serverKey: KeyPair;
  /** Raw public halves of all server keys that count now. */
  servingKeys(): readonly Buffer[];
  /** A server key's raw public half by its id, also of one that was replaced since: for what it signed while it was in force. */
  servedWith(keyId: string): Buffer | null;
  /** Told of the version in force after each change, and when a change that had been made already is asked for again; awaited before the
   *  caller gets an answer. */
  onChange(callback: (version: number) => Promise<void> | void): void;
  /** Puts the keys that `next` makes of the present ones in force; null leaves all as it is.
   *  @throws AegisError access.root_key_absent, access.key_conflict, config.invalid */
  change(next: (keys: TrustBundle['keys']) => TrustBundle['keys'] | null): Promise<void>;
  /** The next version, signed by those of the root's keys that are here. Nothing is in force by it.
   *  @throws AegisError access.key_conflict, access.unknown_key, access.bad_key, access.bad_root */
  draft(change: TrustChange): TrustDraft;
  /** @throws AegisError access.bad_trust_bundle, config.invalid */
  publish(envelope: Envelope): Promise<TrustVersion>;
  /** Some versions from this one on, in order. */
  versions(from: number): Envelope[];
  age(): TrustAge;
  /** The same keys in a new version: those whose end has come revoked, and with the same time to live. False when there is no need.
   *  @throws AegisError as `change` */
  renewWhenDue(): Promise<boolean>;
}

type Version = Partial<Pick<TrustBundle, 'keys' | 'root' | 'merges' | 'expires_at'>>;
/** Of one page: what a walk takes in one answer. */
const PAGE_VERSIONS = 32;
const PAGE_CHARS = 1024 * 1024;
const MAX_MERGES = 16;

export const trustOf = (parts: {
  dataDir: string;
  keys: Pick<FleetKeys, 'chain' | 'server'>;
  clock: Clock;
  faults: FaultPoints;
  shared?: boolean;
}): Trust => {
  const { dataDir, keys, clock, faults } = parts;
  let newest: TrustVersion = keys.chain.at(-1) ?? keys.chain[0];
  const first = keys.chain[0].envelope;
  const shared = parts.shared ?? false;
  /** Other server processes on the same directory add versions too: a look at whether there is a next one costs microseconds.
   *  @throws AegisError config.invalid for one that does not follow */
  const follow = (): void => {
    for (let next = shared ? newest : null; next; next = nextInTrustChain(dataDir, newest)) newest = next;
  };
  const current = (): TrustVersion => {
    try {
      follow();
    } catch (error) {
      if (!(error instanceof AegisError)) throw error; // else what holds goes on; the next change says what is wrong
    }
    return newest;
  };
  const callbacks: ((version: number) => Promise<void> | void)[] = [];
  const tell = async (): Promise<void> => {
    for (const callback of callbacks) await callback(newest.version);
  };
  removeTrustDrafts(dataDir, shared);

  let signing = { by: keys.server, of: newest.envelope.payload };
  let looked = false;
  const signer = (): KeyPair => {
    // One and the same for whoever takes its parts one after the other.
    if (looked) return signing.by;
    looked = true;
    setImmediate(() => {
      looked = false;
    });
    const { bundle, envelope } = current();
    if (signing.of !== envelope.payload)
      signing = { by: serverKeyIn(dataDir, bundle, clock.now()), of: envelope.payload };
    return signing.by;
  };

  const bundleAfter = (changed: Version, now: number): TrustBundle => {
    const { bundle, envelope, version } = newest;
    const lifetimeMs = Date.parse(bundle.expires_at) - Date.parse(bundle.issued_at);
    return {
      ...bundle,
      version: version + 1,
      previous: digestOf(envelope),
      issued_at: new Date(now).toISOString(),
      expires_at: new Date(now + (lifetimeMs > 0 ? lifetimeMs : BUNDLE_LIFETIME_MS)).toISOString(),
      ...changed,
      keys: settled(changed.keys ?? bundle.keys, now),
    };
  };
  /** What the root's keys here can sign, of the root before and of the one to come. */
  const signedHere = (bundle: TrustBundle): { envelope: Envelope | null; isFileHere: boolean } => {
    const before = rootKeysIn(dataDir, newest.bundle.root);
    const after = rootKeysIn(dataDir, bundle.root);
    const pairs = new Map([...before.pairs, ...after.pairs].map((pair) => [pair.keyId, pair]));
    return {
      envelope: pairs.size > 0 ? signTrustBundle(bundle, ...pairs.values()) : null,
      isFileHere: before.isFileHere,
    };
  };

  /** Not interrupted by another change here: nothing in it waits. False when another process took the version. */
  const append = (bundle: TrustBundle): boolean => {
    const { envelope, isFileHere } = signedHere(bundle);
    if (!envelope) throw rootAbsent(isFileHere);
    const { count, enough } = rootSignatures(envelope, newest.bundle.root);
    if (!enough) throw tooFewRoots(count, newest.bundle.root.threshold);
    refuseUnreadable(envelope, clock.now());
    return put({ version: bundle.version, envelope, bundle });
  };
  const put = (next: TrustVersion): boolean => {
    if (!addToTrustChain(dataDir, next.version, next.envelope, faults)) {
      if (shared) return false;
      throw new AegisError(
        'config.invalid',
        `Another process has made version ${next.version} of the trust bundle in ${dataDir}. Restart the server, and ask again.`,
      );
    }
    newest = next;
    return true;
  };
  /** The same again is answered as the first time, also when something else followed. */
  const isPublished = ({ payload }: Envelope): boolean => {
    const { version } = readTrustPayload(payload);
    if (version > newest.version) return false;
    return (version === 1 ? first : envelopeOfVersion(dataDir, version))?.payload === payload;
  };
  const change: Trust['change'] = async (next) => {
    for (;;) {
      follow();
      const listed = next(newest.bundle.keys);
      if (!listed || append(bundleAfter({ keys: listed }, clock.now()))) break;
    }
    await tell();
  };

  const changed = (wanted: TrustChange, now: number): Version => {
    const isListed = (keyId: string): boolean =>
      newest.bundle.keys.some(({ keyid }) => keyid === keyId) || rootKeyIds(newest.bundle.root).includes(keyId);
    let listed: TrustBundle['keys'] = newest.bundle.keys;
    for (const key of wanted.add ?? []) listed = withKey(listed, keyOf(key)) ?? listed;
    for (const id of wanted.revoke ?? []) listed = withoutKey(listed, id).keys ?? listed;
    if (wanted.server_key)
      listed = withServerKey(
        listed,
        pendingKey(dataDir, 'server', isListed, faults),
        wanted.server_key.overlap_sec,
        now,
      );
    if (wanted.root && 'on_server' in wanted.root) {
      const { pairs, isFileHere } = rootKeysIn(dataDir, newest.bundle.root);
      if (pairs.length === 0) throw rootAbsent(isFileHere);
    }
    const root = !wanted.root
      ? newest.bundle.root
      : 'on_server' in wanted.root
        ? { threshold: 1, keys: [pendingKey(dataDir, 'root', isListed, faults).publicRaw.toString('base64')] }
        : rootOf(wanted.root);
    const merges = [...(newest.bundle.merges ?? []), ...(wanted.merges ?? [])].slice(-MAX_MERGES);
    return {
      keys: listed,
      root,
      ...(merges.length > 0 ? { merges } : {}),
      ...(wanted.lifetime_sec === undefined
        ? {}
        : { expires_at: new Date(now + wanted.lifetime_sec * 1000).toISOString() }),
    };
  };

  return {
    current,
    rootFingerprint: () => rootFingerprintOf(current().bundle.root),
    serverKey: {
      get privateKey() {
        return signer().privateKey;
      },
      get publicRaw() {
        return signer().publicRaw;
      },
      get keyId() {
        return signer().keyId;
      },
    },
    servingKeys: () => [...keysFor(current().bundle, 'serve', clock.now()).values()].map(rawPublicKey),
    servedWith: (keyId) => {
      const key = current().bundle.keys.find((one) => one.keyid === keyId && one.usage.includes('serve'));
      return key ? Buffer.from(key.public_key, 'base64') : null;
    },
    onChange: (callback) => void callbacks.push(callback),
    change,

    draft: (wanted) => {
      follow();
      const now = clock.now();
      const bundle = bundleAfter(changed(wanted, now), now);
      const { envelope } = signedHere(bundle);
      const payload = envelope?.payload ?? Buffer.from(JSON.stringify(bundle)).toString('base64');
      return {
        format: 'aegis-trust-draft-1',
        before: newest.envelope,
        payload,
        signatures: envelope?.signatures ?? [],
      };
    },

    publish: async (envelope) => {
      follow();
      if (!isPublished(envelope)) {
        const bundle = checkedNext(envelope, newest, clock.now());
        requireOwnKey(dataDir, bundle, clock.now());
        const next = { version: bundle.version, envelope: { ...envelope, payloadType: PAYLOAD_TYPES.trust }, bundle };
        if (!put(next)) throw badBundle(`version ${bundle.version} was made meanwhile: make another draft`);
      }
      await tell();
      return newest;
    },

    versions: (from) => {
      const found: Envelope[] = [];
      let chars = 0;
      const last = Math.min(current().version, from + PAGE_VERSIONS - 1);
      for (let version = from; version <= last && chars < PAGE_CHARS; version++) {
        const envelope = version === 1 ? first : envelopeOfVersion(dataDir, version);
        if (!envelope) break;
        found.push(envelope);
        chars += envelope.payload.length;
      }
      return found;
    },

    age: () => ageOf(current().bundle, clock.now()),
    renewWhenDue: async () => {
      const { bundle } = current();
      const ended = settled(bundle.keys, clock.now()).some((key, at) => key.state !== bundle.keys[at]?.state);
      if (!ended && ageOf(bundle, clock.now()) === 'good') return false;
      await change((listed) => listed);
      return true;
    },
  };
};

/** @throws AegisError access.bad_trust_bundle */
const checkedNext = (
  envelope: Envelope,
  { bundle, envelope: before, version }: TrustVersion,
  now: number,
): TrustBundle => {
  try {
    const next = followTrust({ bundle, payload: before.payload }, envelope).bundle;
    requireSound(next, now);
    if (next.version === version + 1 && next.previous === digestOf(before)) return next;
  } catch (cause) {
    if (!(cause instanceof AegisError)) throw cause;
    const [, why = cause.message] = /is refused: (.*)\.$/s.exec(cause.message) ?? [];
    throw badBundle(why.replaceAll('this node', 'this server'), cause);
  }
  throw badBundle(`it is not the one that follows version ${version}`);
};
const badBundle = (why: string, cause?: unknown): AegisError =>
  new AegisError(
    'access.bad_trust_bundle',
    `This trust bundle is not put in force: ${why}. Make a draft of what is in force now (aegis access trust draft), and have it signed.`,
    { cause },
  );

/** Without a key of its own in it the server could say nothing more to any node. @throws AegisError access.bad_trust_bundle */
const requireOwnKey = (dataDir: string, bundle: TrustBundle, now: number): void => {
  try {
    if (keysFor(bundle, 'serve', now).size > 0) return void serverKeyIn(dataDir, bundle, now);
  } catch (error) {
    if (!(error instanceof AegisError)) throw error;
  }
  throw badBundle('it lists no key of this server, and no node would obey it any more');
};

/** A version stays for good: one that readers refuse would keep nodes from all later ones, and the server from starting. */
const refuseUnreadable = (envelope: Envelope, now: number): void => {
  try {
    openTrustBundle(envelope, null, now);
  } catch (cause) {
    throw new AegisError(
      'access.key_conflict',
      'The trust bundle would be one that no node reads: nothing was changed. Shorten the names of keys and persons, or set up a new fleet.',
      { cause },
    );
  }
};

const ELSEWHERE =
  "or change it where the key is: 'aegis access trust draft' here, 'aegis access trust sign' there, 'aegis access trust publish'.";
const rootAbsent = (isFileHere: boolean): AegisError =>
  new AegisError(
    'access.root_key_absent',
    isFileHere
      ? `keys/root.pem in the data directory is damaged, or another fleet's root key: nothing was changed. Put this fleet's own there, ${ELSEWHERE}`
      : `The root key is kept away from this server, and without it the keys that nodes trust do not change: nothing was changed. Put it back as keys/root.pem in the data directory (mode 0600), ask again, and take it away, ${ELSEWHERE}`,
  );
const tooFewRoots = (count: number, threshold: number): AegisError =>
  new AegisError(
    'access.root_key_absent',
    `The root needs ${threshold} keys to sign, and ${count} of them are here: nothing was changed. Put the others there, ${ELSEWHERE}`,
  );
