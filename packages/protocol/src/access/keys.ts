import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto';

/** Ed25519 and X25519 keys travel as their 32 raw bytes (RFC 8032, RFC 7748); node:crypto wants KeyObjects. */

export type KeyKind = 'ed25519' | 'x25519';
const CURVE = { ed25519: 'Ed25519', x25519: 'X25519' } as const;

/** The key id: hex SHA-256 of the 32 raw public bytes. */
export const keyIdOf = (rawPublicKey: Uint8Array): string => createHash('sha256').update(rawPublicKey).digest('hex');

/** @throws RangeError when `raw` is not 32 bytes */
export const publicKeyFromRaw = (raw: Uint8Array, kind: KeyKind = 'ed25519'): KeyObject => {
  if (raw.length !== 32) throw new RangeError(`an ${kind} public key has 32 bytes, not ${raw.length}`);
  return createPublicKey({
    format: 'jwk',
    key: { kty: 'OKP', crv: CURVE[kind], x: Buffer.from(raw).toString('base64url') },
  });
};

export const rawPublicKey = (key: KeyObject): Buffer => {
  const { x } = (key.type === 'private' ? createPublicKey(key) : key).export({ format: 'jwk' });
  if (x === undefined) throw new RangeError('not an Ed25519 or X25519 key');
  return Buffer.from(x, 'base64url');
};

/** For what node:crypto does not do with a KeyObject (sealed-box.ts). */
export const rawPrivateKey = (key: KeyObject): Buffer => {
  const { d } = key.export({ format: 'jwk' });
  if (d === undefined) throw new RangeError('not an Ed25519 or X25519 private key');
  return Buffer.from(d, 'base64url');
};

export interface KeyPair {
  privateKey: KeyObject;
  publicRaw: Buffer;
  keyId: string;
}

export const keyPairFrom = (privateKey: KeyObject): KeyPair => {
  const publicRaw = rawPublicKey(privateKey);
  return { privateKey, publicRaw, keyId: keyIdOf(publicRaw) };
};

export const generateKeyPair = (kind: KeyKind = 'ed25519'): KeyPair =>
  keyPairFrom(
    kind === 'ed25519' ? generateKeyPairSync('ed25519').privateKey : generateKeyPairSync('x25519').privateKey,
  );

/** Private keys rest as PKCS#8 PEM, mode 0600. */
export const privateKeyToPem = (key: KeyObject): string => key.export({ format: 'pem', type: 'pkcs8' }).toString();
export const keyPairFromPem = (pem: string): KeyPair => keyPairFrom(createPrivateKey(pem));
