import { diffieHellman, randomBytes } from 'node:crypto';
import nacl from 'tweetnacl';
import { expect, test } from 'vitest';
import { generateKeyPair, keyPairFrom, publicKeyFromRaw, rawPrivateKey } from './keys.ts';
import { openSealed, seal } from './sealed-box.ts';

const node = generateKeyPair('x25519');
const secret = rawPrivateKey(node.privateKey);

test('what is sealed to a node opens with its key and with no other', () => {
  for (const length of [0, 1, 31, 32, 33, 4096, 65_537]) {
    const bytes = randomBytes(length);
    expect(openSealed(seal(bytes, node.publicRaw), secret)).toEqual(bytes);
  }
  const other = rawPrivateKey(generateKeyPair('x25519').privateKey);
  expect(() => openSealed(seal(Buffer.from('key'), node.publicRaw), other)).toThrow(
    expect.objectContaining({ code: 'access.bad_signature' }),
  );
});

test('two boxes of the same bytes have nothing in common, and none shows them', () => {
  const bytes = Buffer.from('a secret access key');
  const [one, two] = [seal(bytes, node.publicRaw), seal(bytes, node.publicRaw)].map((text) =>
    Buffer.from(text, 'base64'),
  );
  if (!one || !two) throw new Error('no boxes');
  expect(one.subarray(0, 32)).not.toEqual(two.subarray(0, 32));
  expect(one.subarray(32, 56)).not.toEqual(two.subarray(32, 56));
  expect(one.subarray(56)).not.toEqual(two.subarray(56));
  expect(one.includes(bytes)).toBe(false);
  expect(one.length).toBe(32 + 24 + 16 + bytes.length);
});

test('each altered byte, each missing one and each added one is noticed', () => {
  const sealed = Buffer.from(seal(Buffer.from('key'), node.publicRaw), 'base64');
  const variants = [
    ...Array.from({ length: sealed.length }, (_, at) => {
      const altered = Buffer.from(sealed);
      // The highest bit of an X25519 public key does not count (RFC 7748): another one is taken there.
      altered.writeUInt8(altered.readUInt8(at) ^ (at === 31 ? 1 : 0x80), at);
      return altered;
    }),
    ...Array.from({ length: sealed.length }, (_, length) => sealed.subarray(0, length)),
    Buffer.concat([sealed, Buffer.alloc(1)]),
  ].map((bytes) => bytes.toString('base64'));
  for (const text of [
    ...variants,
    'no base64!',
    `${sealed.toString('base64')}\n`,
    `${sealed.toString('base64').slice(0, -1)}-`,
  ])
    expect(() => openSealed(text, secret), text).toThrow(expect.objectContaining({ code: 'access.bad_signature' }));
});

test('the exchange is the X25519 of node:crypto, and the box the one of NaCl', () => {
  const sealed = Buffer.from(seal(Buffer.from('key'), node.publicRaw), 'base64');
  const ephemeral = sealed.subarray(0, 32);
  const shared = diffieHellman({ privateKey: node.privateKey, publicKey: publicKeyFromRaw(ephemeral, 'x25519') });
  expect(Buffer.from(nacl.scalarMult(secret, ephemeral))).toEqual(shared);
  expect(Buffer.from(nacl.box.keyPair.fromSecretKey(secret).publicKey)).toEqual(node.publicRaw);
  const key = nacl.box.before(ephemeral, secret);
  expect(Buffer.from(nacl.secretbox.open(sealed.subarray(56), sealed.subarray(32, 56), key) ?? [])).toEqual(
    Buffer.from('key'),
  );
  expect(keyPairFrom(node.privateKey).publicRaw).toEqual(node.publicRaw);
});

test('a key of which the shared secret would be known is not sealed to', () => {
  const low = [Buffer.alloc(32), Buffer.from('01'.padEnd(64, '0'), 'hex')];
  // Points of small order (RFC 7748, section 6.1): p - 1, p, p + 1, and one of order eight.
  low.push(
    ...['ecff', 'edff', 'eeff'].map((text) => Buffer.from(`${text}${'f'.repeat(58)}7f`, 'hex')),
    Buffer.from('e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800', 'hex'),
  );
  for (const key of low)
    expect(() => seal(Buffer.from('key'), key), key.toString('hex')).toThrow(
      expect.objectContaining({ code: 'access.bad_key' }),
    );
  for (const length of [0, 31, 33])
    expect(() => seal(Buffer.from('key'), Buffer.alloc(length, 9))).toThrow(
      expect.objectContaining({ code: 'access.bad_key' }),
    );
});
