/** nodes: who this machine is. Keys made here that never leave, the identity that the server gave, enrolment, facts, node tokens.
 *  Called by enrol.ts and daemon.ts. Invariant: private keys exist on disk before the first word to a server, and an enrolled
 *  data directory belongs to one fleet for good, at whatever address its server is. Must not: run or believe anything that a server says before its
 *  root was checked, and never write a key or token anywhere but into its own 0600 file. */
import { join } from 'node:path';
import { Envelope } from '@aegis/protocol/access/dsse';
import { generateKeyPair, type KeyPair, keyPairFromPem, privateKeyToPem } from '@aegis/protocol/access/keys';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { readPrivateFile, writePrivateFile } from '../platform/private-files.ts';

export const Identity = z.object({
  uid: z.uuid(),
  name: z.string(),
  fleet: z.string(),
  /** Origin of the server. */
  server: z.string(),
  root_fingerprint: z.string(),
  trust_bundle: Envelope,
  tls: z.optional(z.object({ certificate: z.string(), fingerprint: z.string() })),
});
export type Identity = z.infer<typeof Identity>;

export interface NodeKeys {
  signing: KeyPair;
  /** X25519. */
  sealing: KeyPair;
}

const keyFile = { signing: 'node.key', sealing: 'sealing.key' } as const;

/** The keys of this data directory, made now when there are none. Both are durable when this returns. */
export const ensureNodeKeys = (dataDir: string): NodeKeys => ({
  signing: ensureKey(join(dataDir, keyFile.signing), 'ed25519'),
  sealing: ensureKey(join(dataDir, keyFile.sealing), 'x25519'),
});

const ensureKey = (path: string, kind: 'ed25519' | 'x25519'): KeyPair => {
  const pem = readPrivateFile(path);
  if (pem === null) {
    const made = generateKeyPair(kind);
    if (writePrivateFile(path, privateKeyToPem(made.privateKey), { exclusive: true })) return made;
    return ensureKey(path, kind); // another process made it first
  }
  let pair: KeyPair;
  try {
    pair = keyPairFromPem(pem);
  } catch {
    // Without the cause: it could quote the key.
    throw new AegisError('config.invalid', `${path} is damaged: restore it, or enrol anew with an empty --data-dir.`);
  }
  if (pair.privateKey.asymmetricKeyType !== kind)
    throw new AegisError(
      'config.invalid',
      `${path} is not an ${kind} key: restore it, or enrol anew with an empty --data-dir.`,
    );
  return pair;
};

export const readIdentity = (dataDir: string): Identity | null =>
  readRecord(join(dataDir, 'identity.json'), Identity, 'restore it, or enrol anew with an empty --data-dir');

export const writeIdentity = (dataDir: string, identity: Identity): void => {
  writePrivateFile(join(dataDir, 'identity.json'), `${JSON.stringify(identity, null, 2)}\n`);
};

/** A private JSON file, strictly checked; null when there is none. */
export const readRecord = <S extends z.ZodMiniType>(path: string, schema: S, remedy: string): z.infer<S> | null => {
  const text = readPrivateFile(path);
  if (text === null) return null;
  try {
    return z.parse(schema, JSON.parse(text));
  } catch {
    throw new AegisError('config.invalid', `${path} is damaged: ${remedy}.`);
  }
};
