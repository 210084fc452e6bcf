import { createCipheriv, createHash, randomBytes, scryptSync } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** A repository of restic's (its doc/design.rst, version 2) made by hand: its key costs next to nothing to derive, so that a call of restic takes a
 *  tenth of a second instead of seven, and a history of many snapshots is written without a call for each. */

export const PASSWORD = 'reference';
/** Any polynomial that restic made: it refuses reducible ones. */
const POLYNOMIAL = '2d122ef6981793';
const SCRYPT = { N: 2, r: 1, p: 1 };

interface Keys {
  encrypt: Buffer;
  k: Buffer;
  r: Buffer;
}

export interface ResticSnapshot {
  /** RFC 3339, with the offset of its zone. */
  time: string;
  hostname: string;
  /** Comes back in what restic prints. */
  username: string;
  tags: readonly string[];
}

export interface ResticRepository {
  addSnapshot(snapshot: ResticSnapshot): void;
}

export const makeRepository = (folder: string): ResticRepository => {
  for (const name of ['data', 'index', 'keys', 'locks', 'snapshots'])
    mkdirSync(join(folder, name), { recursive: true });
  const keys = { encrypt: randomBytes(32), k: randomBytes(16), r: maskedR(randomBytes(16)) };
  const store = (place: string, bytes: Buffer) => writeFileSync(join(folder, place, sha256(bytes)), bytes);
  const salt = randomBytes(64);
  const derived = scryptSync(PASSWORD, salt, 64, SCRYPT);
  const own = { encrypt: derived.subarray(0, 32), k: derived.subarray(32, 48), r: maskedR(derived.subarray(48)) };
  const master = JSON.stringify({
    mac: { k: keys.k.toString('base64'), r: keys.r.toString('base64') },
    encrypt: keys.encrypt.toString('base64'),
  });
  const key = {
    created: '2026-01-01T00:00:00Z',
    username: 'test',
    hostname: 'test',
    kdf: 'scrypt',
    ...SCRYPT,
    salt: salt.toString('base64'),
    data: sealed(own, Buffer.from(master)).toString('base64'),
  };
  store('keys', Buffer.from(JSON.stringify(key)));
  const config = { version: 2, id: randomBytes(32).toString('hex'), chunker_polynomial: POLYNOMIAL };
  writeFileSync(join(folder, 'config'), sealed(keys, Buffer.from(JSON.stringify(config))));
  return {
    addSnapshot: (snapshot) => {
      const text = JSON.stringify({ ...snapshot, tree: sha256(Buffer.from(snapshot.username)), paths: ['/data'] });
      store('snapshots', sealed(keys, Buffer.from(text)));
    },
  };
};

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** IV, AES-256-CTR, Poly1305-AES. */
const sealed = ({ encrypt, k, r }: Keys, plain: Buffer): Buffer => {
  const iv = randomBytes(16);
  const text = createCipheriv('aes-256-ctr', encrypt, iv).update(plain);
  const aes = createCipheriv('aes-128-ecb', k, null).setAutoPadding(false);
  return Buffer.concat([iv, text, poly1305(text, r, aes.update(iv))]);
};

const MASK = Buffer.from('ffffff0ffcffff0ffcffff0ffcffff0f', 'hex');
const maskedR = (r: Buffer): Buffer => Buffer.from(r.map((byte, at) => byte & (MASK[at] ?? 0)));

const littleEndian = (bytes: Buffer): bigint => BigInt(`0x${Buffer.from(bytes).reverse().toString('hex') || '0'}`);
const PRIME = 2n ** 130n - 5n;
/** RFC 8439, 2.5. */
const poly1305 = (message: Buffer, r: Buffer, s: Buffer): Buffer => {
  const factor = littleEndian(r);
  let sum = 0n;
  for (let at = 0; at < message.length; at += 16)
    sum = ((sum + littleEndian(Buffer.concat([message.subarray(at, at + 16), Buffer.from([1])]))) * factor) % PRIME;
  const tag = (sum + littleEndian(s)) % 2n ** 128n;
  return Buffer.from(tag.toString(16).padStart(32, '0'), 'hex').reverse();
};
