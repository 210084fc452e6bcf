import { blake2b } from '@noble/hashes/blake2.js';
import { expect, test } from 'vitest';
import { AegisError } from '../errors.ts';
import { formatMinisignPublicKey } from './minisign.ts';
import {
  formatMinisignSecretKey,
  generateMinisignKey,
  isEncryptedSecretKey,
  parseMinisignSecretKey,
  SENSITIVE,
  scryptCosts,
} from './minisign-secret-key.ts';

/** The least that libsodium knows: tests that are not about the cost take it. */
const CHEAP = { opslimit: 32_768, memlimit: 16 * 1024 * 1024 };
const key = generateMinisignKey();
const plain = await formatMinisignSecretKey(key, null);
const sealed = await formatMinisignSecretKey(key, 'correct horse', CHEAP);

const refusalOf = async (work: Promise<unknown>): Promise<[string, string]> => {
  try {
    await work;
  } catch (error) {
    if (error instanceof AegisError) return [error.code, error.message];
    throw error;
  }
  throw new Error('it was not refused');
};
const withBytes = (text: string, change: (bytes: Buffer) => void): string => {
  const [comment, line = ''] = text.split('\n');
  const bytes = Buffer.from(line, 'base64');
  change(bytes);
  return `${comment}\n${bytes.toString('base64')}\n`;
};

test('what was written is read again, with and without a password', async () => {
  for (const [text, password] of [
    [plain, null],
    [sealed, 'correct horse'],
  ] as const) {
    const read = await parseMinisignSecretKey(text, password);
    expect({ ...read, privateKey: null }).toEqual({ ...key, privateKey: null });
    expect(read.privateKey.equals(key.privateKey)).toBe(true);
    expect(isEncryptedSecretKey(text)).toBe(password !== null);
  }
  const again = await formatMinisignSecretKey(key, 'correct horse', CHEAP);
  expect(again).not.toBe(sealed); // another salt
  // A password that was given for nothing does no harm.
  expect((await parseMinisignSecretKey(plain, 'x')).minisignId).toBe(key.minisignId);
});

test('BLAKE2b-256 of RFC 7693’s reference implementation', () => {
  expect(Buffer.from(blake2b(Buffer.from('abc'), { dkLen: 32 })).toString('hex')).toBe(
    'bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319',
  );
});

test('libsodium’s limits as scrypt’s parameters', () => {
  // The two named pairs of crypto_pwhash_scryptsalsa208sha256.h, the least that it takes, and both branches around the border.
  expect(scryptCosts(SENSITIVE)).toEqual({ N: 2 ** 20, r: 8, p: 1 });
  expect(scryptCosts({ opslimit: 524_288, memlimit: 16_777_216 })).toEqual({ N: 2 ** 14, r: 8, p: 1 });
  expect(scryptCosts({ opslimit: 1, memlimit: 16_777_216 })).toEqual({ N: 2 ** 10, r: 8, p: 1 });
  expect(scryptCosts({ opslimit: SENSITIVE.opslimit / 2, memlimit: SENSITIVE.memlimit })).toEqual({
    N: 2 ** 19,
    r: 8,
    p: 1,
  });
  expect(scryptCosts({ opslimit: SENSITIVE.opslimit * 4, memlimit: SENSITIVE.memlimit })).toEqual({
    N: 2 ** 20,
    r: 8,
    p: 4,
  });
});

test('a wrong password, none, one that is none', async () => {
  expect(await refusalOf(parseMinisignSecretKey(sealed, 'Correct horse'))).toEqual([
    'access.bad_password',
    'That is not the password of this secret key, or the file is damaged.',
  ]);
  expect(await refusalOf(parseMinisignSecretKey(sealed, null))).toEqual([
    'access.bad_password',
    'The secret key is under a password: give it, and try again.',
  ]);
  for (const password of ['', 'x'.repeat(1024), 'a\0b'])
    expect((await refusalOf(formatMinisignSecretKey(key, password, CHEAP)))[0]).toBe('access.bad_password');
});

const u64 = (at: number, value: bigint) => (bytes: Buffer) => void bytes.writeBigUInt64LE(value, at);
test.each<[string, string, string, string]>([
  ['nothing', '', 'access.bad_key', 'two lines'],
  ['one line', plain.split('\n')[1] ?? '', 'access.bad_key', 'two lines'],
  ['a third line', `${plain}x`, 'access.bad_key', 'two lines'],
  ['too short', plain.replace(/.{4}\n$/, '\n'), 'access.bad_key', 'base64 of 158 bytes'],
  ['the public key', formatMinisignPublicKey({ ...key, raw: key.publicRaw }), 'access.bad_key', 'That is a public key'],
  ['another algorithm', withBytes(plain, (bytes) => bytes.write('ED')), 'access.bad_key', 'of a kind'],
  ['another derivation', withBytes(plain, (bytes) => bytes.write('Ar', 2)), 'access.bad_key', 'of a kind'],
  ['another checksum', withBytes(plain, (bytes) => bytes.write('B3', 4)), 'access.bad_key', 'of a kind'],
  [
    'halves that differ',
    withBytes(plain, (bytes) => bytes.fill(7, 94, 126)),
    'access.bad_key',
    'do not belong together',
  ],
  ['another seed', withBytes(plain, (bytes) => bytes.fill(7, 62, 94)), 'access.bad_key', 'do not belong together'],
  [
    'a flipped bit',
    withBytes(sealed, (bytes) => bytes.writeUInt8(bytes.readUInt8(70) ^ 1, 70)),
    'access.bad_password',
    'not the password',
  ],
  ['another salt', withBytes(sealed, (bytes) => bytes.fill(0, 6, 38)), 'access.bad_password', 'not the password'],
  ['an hour of work', withBytes(sealed, u64(38, 2n ** 40n)), 'access.bad_key', 'asks for more memory or time'],
  [
    'a mountain of memory',
    withBytes(withBytes(sealed, u64(38, 2n ** 63n)), u64(46, 2n ** 63n)),
    'access.bad_key',
    'asks for more memory or time',
  ],
])('refused: %s', async (_, hostile, code, sentence) => {
  const [said, message] = await refusalOf(parseMinisignSecretKey(hostile, 'correct horse'));
  expect([said, message]).toEqual([code, expect.stringContaining(sentence)]);
  expect(message).not.toContain('correct horse');
});
