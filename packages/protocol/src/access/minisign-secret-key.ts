import { createPrivateKey, randomBytes, scrypt, timingSafeEqual } from 'node:crypto';
import { blake2b } from '@noble/hashes/blake2.js';
import { AegisError } from '../errors.ts';
import { generateKeyPair, type KeyPair, keyPairFrom } from './keys.ts';
import {
  badKey,
  commentOf,
  exactBase64,
  KEY_ALGORITHM,
  linesOf,
  type MinisignId,
  minisignIdBytes,
  minisignIdOf,
  UNTRUSTED,
  writableComment,
} from './minisign.ts';

/** minisign's secret keys: under a password (scrypt, as libsodium's pwhash_scryptsalsa208sha256), or as they are (`minisign -G -W`).
 *  Layout: "Ed", "Sc" or two zeros, "B2", salt 32, opslimit u64, memlimit u64, then key id 8, seed 32, public key 32 and
 *  checksum 32, these 104 bytes XORed with what scrypt makes. No error repeats anything of a key or password. */

export interface MinisignSecretKey extends KeyPair {
  minisignId: MinisignId;
}

/** What the key derivation may cost: libsodium's two limits, stored in the file. */
export interface KdfLimits {
  opslimit: number;
  memlimit: number;
}
/** libsodium's SENSITIVE limits, which the stock program writes: N = 2^20, r = 8, p = 1, that is 1 GiB and seconds. */
export const SENSITIVE: KdfLimits = { opslimit: 33_554_432, memlimit: 1_073_741_824 };
/** A file may ask for this much and no more: it is somebody's text until its password was found right. */
const MAX_MEMORY_BYTES = 2 ** 31;
const MAX_PASSES = 16;

const FILE_BYTES = 158;
const SEALED_FROM = 54;
const SEALED_BYTES = 104;
const ENCRYPTED = 'Sc';
const PLAIN = '\0\0';
const CHECKSUM = 'B2';
const COMMENT = 'minisign encrypted secret key';
const MAX_PASSWORD_BYTES = 1023;
/** PKCS#8 of an Ed25519 private key (RFC 8410) up to its 32-byte seed. */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex');

/** A fresh pair with a random id, as `minisign -G` makes it. */
export const generateMinisignKey = (): MinisignSecretKey => ({
  ...generateKeyPair(),
  minisignId: minisignIdOf(randomBytes(8)),
});

/** Whether a password is needed to read it. @throws AegisError access.bad_key */
export const isEncryptedSecretKey = (text: string): boolean => fieldsOf(text).encrypted;

/** @param password null for a key that has none
 *  @throws AegisError access.bad_key, access.bad_password */
export const parseMinisignSecretKey = async (text: string, password: string | null): Promise<MinisignSecretKey> => {
  const { bytes, encrypted, limits } = fieldsOf(text);
  const sealed = bytes.subarray(SEALED_FROM);
  if (!encrypted) return keyOf(sealed);
  if (password === null)
    throw new AegisError('access.bad_password', 'The secret key is under a password: give it, and try again.');
  const opened = xor(sealed, await keystream(password, bytes.subarray(6, 38), limits));
  if (!timingSafeEqual(checksumOf(opened), opened.subarray(72)))
    throw new AegisError('access.bad_password', 'That is not the password of this secret key, or the file is damaged.');
  return keyOf(opened);
};

/** The text of a secret key file. @param password null leaves it readable by whoever has the file
 *  @throws AegisError access.bad_password when it is empty or longer than the stock program takes */
export const formatMinisignSecretKey = async (
  key: MinisignSecretKey,
  password: string | null,
  limits: KdfLimits = SENSITIVE,
): Promise<string> => {
  const seed = key.privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(PKCS8_PREFIX.length);
  const named = Buffer.concat([minisignIdBytes(key.minisignId), seed, key.publicRaw]);
  const head = (kdf: string, salt: Buffer, { opslimit, memlimit }: KdfLimits): Buffer => {
    const numbers = Buffer.alloc(16);
    numbers.writeBigUInt64LE(BigInt(opslimit), 0);
    numbers.writeBigUInt64LE(BigInt(memlimit), 8);
    return Buffer.concat([Buffer.from(KEY_ALGORITHM + kdf + CHECKSUM, 'latin1'), salt, numbers]);
  };
  const line = (bytes: Buffer): string => `${writableComment(UNTRUSTED + COMMENT)}\n${bytes.toString('base64')}\n`;
  // As the stock program: no limits, no salt and no checksum where there is no password.
  if (password === null)
    return line(Buffer.concat([head(PLAIN, Buffer.alloc(32), { opslimit: 0, memlimit: 0 }), named, Buffer.alloc(32)]));
  const salt = randomBytes(32);
  const sealed = xor(Buffer.concat([named, checksumOf(named)]), await keystream(password, salt, limits));
  return line(Buffer.concat([head(ENCRYPTED, salt, limits), sealed]));
};

const fieldsOf = (text: string): { bytes: Buffer; encrypted: boolean; limits: KdfLimits } => {
  const lines = linesOf(text) ?? [];
  if (lines.length !== 2 || commentOf(lines[0]) === null)
    throw badKey(
      `A minisign secret key is a file of two lines, the first of which begins with "${UNTRUSTED}". Give the .key file as it was written.`,
    );
  const encoded = lines[1] ?? '';
  if (exactBase64(encoded, 42)) throw badKey('That is a public key. Give the secret one, the .key file.');
  const bytes = exactBase64(encoded, FILE_BYTES);
  if (!bytes)
    throw badKey(`The secret key is not the base64 of ${FILE_BYTES} bytes: it is damaged, or no key of minisign.`);
  const [algorithm, kdf, checksum] = [0, 2, 4].map((at) => bytes.toString('latin1', at, at + 2));
  if (algorithm !== KEY_ALGORITHM || checksum !== CHECKSUM || (kdf !== ENCRYPTED && kdf !== PLAIN))
    throw badKey('The secret key is of a kind that minisign does not have.');
  const limits = { opslimit: Number(bytes.readBigUInt64LE(38)), memlimit: Number(bytes.readBigUInt64LE(46)) };
  return { bytes, encrypted: kdf === ENCRYPTED, limits };
};

/** Key id, seed, public key, checksum. */
const keyOf = (opened: Buffer): MinisignSecretKey => {
  // A key without a password has no checksum from the stock program; the two halves have to agree in any case.
  const pair = keyPairFrom(
    createPrivateKey({
      key: Buffer.concat([PKCS8_PREFIX, opened.subarray(8, 40)]),
      format: 'der',
      type: 'pkcs8',
    }),
  );
  if (!timingSafeEqual(pair.publicRaw, opened.subarray(40, 72)))
    throw badKey('The secret key is damaged: its private and its public half do not belong together.');
  return { ...pair, minisignId: minisignIdOf(opened.subarray(0, 8)) };
};

/** BLAKE2b-256 over algorithm, key id and key. node:crypto has BLAKE2b with 512 bits only, and the length is part of the hash. */
const checksumOf = (opened: Uint8Array): Buffer =>
  Buffer.from(blake2b(Buffer.concat([Buffer.from(KEY_ALGORITHM), opened.subarray(0, 72)]), { dkLen: 32 }));

const xor = (a: Uint8Array, b: Uint8Array): Buffer => Buffer.from(a.map((byte, at) => byte ^ (b[at] ?? 0)));

const keystream = (password: string, salt: Buffer, limits: KdfLimits): Promise<Buffer> => {
  const bytes = Buffer.from(password, 'utf8');
  if (bytes.length === 0 || bytes.length > MAX_PASSWORD_BYTES || bytes.includes(0))
    throw new AegisError('access.bad_password', `A password has 1 to ${MAX_PASSWORD_BYTES} bytes, none of them zero.`);
  const { N, r, p } = scryptCosts(limits);
  const maxmem = 128 * r * (N + p + 2) + 1024 * 1024;
  if (maxmem > MAX_MEMORY_BYTES || p > MAX_PASSES || p < 1)
    throw badKey(
      'The secret key asks for more memory or time than any key of minisign does, or for none: it is refused.',
    );
  return new Promise((resolve, reject) => {
    scrypt(bytes, salt, SEALED_BYTES, { N, r, p, maxmem }, (error, key) => {
      if (error)
        reject(badKey(`Deriving the key takes ${Math.ceil(maxmem / 2 ** 20)} MiB of memory, which failed.`, error));
      else resolve(key);
    });
  });
};

/** scrypt's parameters of libsodium's two limits: pickparams() in crypto_pwhash_scryptsalsa208sha256. */
export const scryptCosts = ({ opslimit, memlimit }: KdfLimits): { N: number; r: number; p: number } => {
  const r = 8;
  const ops = Math.max(opslimit, 32_768);
  const byTime = ops < Math.floor(memlimit / 32);
  const maxN = byTime ? ops / (r * 4) : memlimit / (r * 128);
  let log2 = 1;
  while (log2 < 63 && 2 ** log2 <= Math.floor(maxN) / 2) log2++;
  const N = 2 ** log2;
  const maxrp = Math.min(Math.floor(Math.floor(ops / 4) / N), 0x3fffffff);
  return { N, r, p: byTime ? 1 : Math.floor(maxrp / r) };
};
