/** access: who may do what. Owns the fleet's keys and trust bundle, operator tokens, join tokens, node tokens, the dev rule.
 *  Called by the HTTP mount (authentication), by enrolment, and by `aegis server init|token|join-token` without a server.
 *  Invariant: no secret leaves the disk but once, in the answer that makes it; every comparison of one is constant-time.
 *  It must not know nodes or commands. */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { Envelope } from '@aegis/protocol/access/dsse';
import { generateKeyPair, type KeyPair, keyPairFromPem, privateKeyToPem } from '@aegis/protocol/access/keys';
import { rootFingerprintOf, signTrustBundle } from '@aegis/protocol/access/trust-bundle';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { serverKeyIn } from './key-files.ts';
import { createPrivateFile, privateDirectory, readPrivateFile } from './private-files.ts';
import { readTrustChain, type TrustVersion } from './trust-chain.ts';

export interface FleetKeys {
  fleet: string;
  /** Of the root in force: what join tokens pin. */
  rootFingerprint: string;
  /** Of the root that the fleet began with: what says for good which fleet it is. */
  firstRootFingerprint: string;
  /** Signs directives and enrolment answers. What goes on while keys change asks `Trust` for it. */
  server: KeyPair;
  /** The trust bundle's versions, the newest last. */
  chain: readonly [TrustVersion, ...TrustVersion[]];
  secrets: Secrets;
}

const Secrets = z.strictObject({
  jwt_signing_secret: z.string().check(z.minLength(32)),
  /** Join token secrets are HMACs under this, so that none needs storing. 32 bytes, base64url. */
  join_master: z.string().check(z.regex(/^[A-Za-z0-9_-]{43}$/)),
});
type Secrets = z.infer<typeof Secrets>;
const FleetFile = z.object({ fleet: z.string(), root_fingerprint: z.string(), trust_bundle: Envelope });

export const FLEET_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
/** Nodes get a new bundle with each change of a key only, so each outlives the release by far. */
export const BUNDLE_LIFETIME_MS = 10 * 365 * 24 * 3_600_000;

const paths = (dataDir: string) => ({
  fleet: join(dataDir, 'fleet.json'),
  keys: join(dataDir, 'keys'),
  root: join(dataDir, 'keys', 'root.pem'),
  server: join(dataDir, 'keys', 'server.pem'),
  secrets: join(dataDir, 'keys', 'secrets.json'),
});

/** What `dataDir` holds, or null when it was never initialised.
 *  @throws AegisError config.invalid when a part of it is missing, unreadable or not private */
export const loadFleetKeys = (dataDir: string, now: number): FleetKeys | null => {
  const at = paths(dataDir);
  const fleetText = readPrivateFile(at.fleet);
  if (fleetText === null) return null;
  const { fleet, root_fingerprint, trust_bundle } = parsed(at.fleet, FleetFile, fleetText);
  const chain = readTrustChain(dataDir, trust_bundle, root_fingerprint);
  const { bundle } = chain.at(-1) ?? chain[0];
  return {
    fleet,
    rootFingerprint: rootFingerprintOf(bundle.root),
    firstRootFingerprint: root_fingerprint,
    server: serverKeyIn(dataDir, bundle, now),
    chain,
    secrets: parsed(at.secrets, Secrets, required(at.secrets)),
  };
};

/** Makes a fleet in `dataDir`; safe to repeat after a crash, because fleet.json, which says that all is there, comes last.
 *  @param keepRoot takes the root's private key (PEM) to where it shall be; without it, it stays in `dataDir` */
export const createFleetKeys = (
  dataDir: string,
  fleetName: string | undefined,
  now: number,
  keepRoot?: (pem: string) => void,
): FleetKeys => {
  const fleet = fleetName ?? `fleet-${randomBytes(4).toString('hex')}`;
  if (!FLEET_NAME.test(fleet))
    throw new AegisError('config.invalid', `'${fleet.slice(0, 80)}' is no fleet name: 1–64 of A-Z a-z 0-9 . _ -`);
  const at = paths(dataDir);
  privateDirectory(dataDir);
  privateDirectory(at.keys);
  const root = keepRoot
    ? rootKeptBy(keepRoot)
    : keyPairFromPem(madeOnce(at.root, () => privateKeyToPem(generateKeyPair().privateKey)));
  const server = keyPairFromPem(madeOnce(at.server, () => privateKeyToPem(generateKeyPair().privateKey)));
  const secrets: Secrets = {
    jwt_signing_secret: randomBytes(32).toString('base64url'),
    join_master: randomBytes(32).toString('base64url'),
  };
  madeOnce(at.secrets, () => JSON.stringify(secrets));
  const trust_bundle = signTrustBundle(
    {
      fleet,
      version: 1,
      previous: null,
      issued_at: new Date(now).toISOString(),
      expires_at: new Date(now + BUNDLE_LIFETIME_MS).toISOString(),
      root: { threshold: 1, keys: [root.publicRaw.toString('base64')] },
      keys: [
        {
          keyid: server.keyId,
          public_key: server.publicRaw.toString('base64'),
          name: 'server',
          usage: ['serve'],
          state: 'active',
        },
      ],
    },
    root,
  );
  madeOnce(at.fleet, () => JSON.stringify({ fleet, root_fingerprint: root.keyId, trust_bundle }));
  const made = loadFleetKeys(dataDir, now);
  if (!made) throw new AegisError('config.invalid', `${at.fleet} vanished while it was being made.`);
  return made;
};

/** Never in the data directory, not for a moment. */
const rootKeptBy = (keep: (pem: string) => void): KeyPair => {
  const root = generateKeyPair();
  keep(privateKeyToPem(root.privateKey));
  return root;
};

const madeOnce = (path: string, text: () => string): string => {
  const known = readPrivateFile(path);
  if (known !== null) return known;
  createPrivateFile(path, text());
  return required(path); // another process may have been first
};

const required = (path: string): string => {
  const text = readPrivateFile(path);
  if (text === null)
    throw new AegisError('config.invalid', `${path} is missing. Restore it from a backup of the data directory.`);
  return text;
};

const parsed = <S extends z.ZodMiniType>(path: string, schema: S, text: string): z.infer<S> => {
  try {
    return z.parse(schema, JSON.parse(text));
  } catch {
    // without the cause: it could quote a secret
    throw new AegisError('config.invalid', `${path} is damaged. Restore it from a backup of the data directory.`);
  }
};
