/** age: the encryption around archives and manifests, https://c2sp.org/age version 1 with X25519 recipients: what `age` writes, this reads, and
 *  the other way round. `encrypt.ts` seals a stream for recipients, `decrypt.ts` opens one, or any part of one, with identities.
 *  Invariant: a file key is made new for each stream and used for that one only; nothing unauthenticated is ever given out.
 *  Must not: keep or name a secret: no identity, no part of one, gets into a message. */
import { createPrivateKey, createPublicKey, diffieHellman, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { publicKeyFromRaw, rawPublicKey } from '@aegis/protocol/access/keys';
import { AegisError } from '@aegis/protocol/errors';
import { decodeBech32, encodeBech32 } from './bech32.ts';

const RECIPIENT = 'age';
const IDENTITY = 'age-secret-key-';
const KEY_BYTES = 32;
/** PKCS #8 of an X25519 key (RFC 8410), up to its 32 raw bytes. */
const PKCS8 = Buffer.from('302e020100300506032b656e04220420', 'hex');

export interface Recipient {
  text: string;
  publicKey: KeyObject;
  publicRaw: Buffer;
}
export interface Identity {
  privateKey: KeyObject;
  publicRaw: Buffer;
  /** Whose backups it opens. */
  recipient: string;
}

/** The public half of an identity: `age1…`.
 *  @throws AegisError backups.bad_recipient */
export const parseRecipient = (text: string): Recipient => {
  if (/^age-(secret-key|plugin)-/i.test(text))
    throw badRecipient(
      'This is a secret identity, not a recipient: give its public half (age1…), which `age-keygen -y` prints.',
    );
  if (/^ssh-|^age1(pq|tag|tagpq)1/i.test(text))
    throw badRecipient(
      `'${brief(text)}' is a recipient of a kind that Aegis does not encrypt to: only X25519 ones (age1 and 58 characters).`,
    );
  const parts = decodeBech32(text);
  if ('fault' in parts)
    throw badRecipient(`'${brief(text)}' is not an age recipient: ${parts.fault}. Copy it whole (age1…).`);
  if (parts.prefix !== RECIPIENT || text !== text.toLowerCase() || parts.bytes.length !== KEY_BYTES)
    throw badRecipient(`'${brief(text)}' is not an age recipient: those are age1 and 58 lower-case characters.`);
  const publicKey = publicKeyFromRaw(parts.bytes, 'x25519');
  if (isLowOrder(publicKey))
    throw badRecipient(`'${brief(text)}' is no real key: anyone could read what is encrypted to it.`);
  return { text, publicKey, publicRaw: parts.bytes };
};

/** Those of an identity file, as `age-keygen` writes it: one a line, `#` begins a comment.
 *  @throws AegisError backups.bad_identity naming the line, never what it holds */
export const parseIdentities = (text: string): Identity[] => {
  if (/^\s*(age-encryption\.org\/|-----BEGIN AGE ENCRYPTED FILE-----)/.test(text))
    throw badIdentity('The identity file is itself encrypted: decrypt it first (`age -d`).');
  if (/^\s*-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text))
    throw badIdentity(
      'This is an SSH or PEM key: Aegis opens backups with age identities only (AGE-SECRET-KEY-1…, made by `age-keygen`).',
    );
  const identities = text.split('\n').flatMap((line, at) => {
    const content = line.trim();
    return content === '' || content.startsWith('#') ? [] : [parseIdentity(content, at + 1)];
  });
  if (identities.length === 0)
    throw badIdentity('The identity file has no identity: a line AGE-SECRET-KEY-1… is needed.');
  return identities;
};

const parseIdentity = (text: string, line: number): Identity => {
  if (/^age-plugin-|^age-secret-key-pq-1/i.test(text))
    throw badIdentity(
      `Line ${line} of the identity file has an identity of a kind that Aegis does not know: only X25519 ones (AGE-SECRET-KEY-1…).`,
    );
  if (/^age1/.test(text))
    throw badIdentity(
      `Line ${line} of the identity file is a recipient, which opens nothing: the identity is needed (AGE-SECRET-KEY-1…).`,
    );
  const parts = decodeBech32(text);
  if ('fault' in parts) throw badIdentity(`Line ${line} of the identity file is not an age identity: ${parts.fault}.`);
  if (parts.prefix !== IDENTITY || text !== text.toUpperCase() || parts.bytes.length !== KEY_BYTES)
    throw badIdentity(`Line ${line} of the identity file is not an age identity (AGE-SECRET-KEY-1…).`);
  const privateKey = createPrivateKey({ format: 'der', type: 'pkcs8', key: Buffer.concat([PKCS8, parts.bytes]) });
  const publicRaw = rawPublicKey(createPublicKey(privateKey));
  return { privateKey, publicRaw, recipient: encodeBech32(RECIPIENT, publicRaw) };
};

/** `identity` is the line for an identity file: a secret. */
export const generateIdentity = (): { identity: string; recipient: string } => {
  const { privateKey } = generateKeyPairSync('x25519');
  const raw = privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(-KEY_BYTES);
  return {
    identity: encodeBech32(IDENTITY, raw).toUpperCase(),
    recipient: encodeBech32(RECIPIENT, rawPublicKey(privateKey)),
  };
};

/** Null where the other key gives nothing that is secret (RFC 7748, 6.1: all zeros). */
export const sharedSecret = (privateKey: KeyObject, publicKey: KeyObject): Buffer | null => {
  let secret: Buffer;
  try {
    secret = diffieHellman({ privateKey, publicKey });
  } catch {
    return null; // OpenSSL's own check of the same
  }
  return secret.every((byte) => byte === 0) ? null : secret;
};

const isLowOrder = (publicKey: KeyObject): boolean =>
  sharedSecret(generateKeyPairSync('x25519').privateKey, publicKey) === null;

const brief = (text: string): string => {
  const shown = text.slice(0, 12).replace(/[^\x20-\x7e]/g, '?');
  return shown.length < text.length ? `${shown}…` : shown;
};
const badRecipient = (sentence: string) => new AegisError('backups.bad_recipient', sentence);
const badIdentity = (sentence: string) => new AegisError('backups.bad_identity', sentence);
