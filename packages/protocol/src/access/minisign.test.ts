import { sign } from 'node:crypto';
import nacl from 'tweetnacl';
import { expect, test } from 'vitest';
import { AegisError } from '../errors.ts';
import { generateKeyPair } from './keys.ts';
import {
  formatMinisignPublicKey,
  minisignIdBytes,
  parseMinisignPublicKey,
  parseMinisignSignature,
  signMinisign,
  verifyMinisign,
} from './minisign.ts';
import { generateMinisignKey } from './minisign-secret-key.ts';

const key = generateMinisignKey();
const publicKey = { minisignId: key.minisignId, raw: key.publicRaw };
const message = Buffer.from('a bundle');
const text = signMinisign(message, key, { trustedComment: 'over the bundle' });
const [untrusted = '', signed = '', trusted = '', global = ''] = text.split('\n');
const lines = (...all: string[]): string => `${all.join('\n')}\n`;

const refusalOf = (work: () => unknown): [string, string] => {
  try {
    work();
  } catch (error) {
    if (error instanceof AegisError) return [error.code, error.message];
    throw error;
  }
  throw new Error('it was not refused');
};

test('the key of minisign’s own documentation reads as minisign prints it', () => {
  const stock = 'RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3';
  const file = `untrusted comment: minisign public key E7620F1842B4E81F\n${stock}\n`;
  const parsed = parseMinisignPublicKey(file);
  expect(parsed).toMatchObject({ minisignId: 'E7620F1842B4E81F', comment: 'minisign public key E7620F1842B4E81F' });
  expect(formatMinisignPublicKey(parsed)).toBe(file);
  expect(parseMinisignPublicKey(stock)).toEqual({ ...parsed, comment: '' });
  expect(parseMinisignPublicKey(file.replaceAll('\n', '\r\n'))).toEqual(parsed);
  expect(parseMinisignPublicKey(file.trimEnd())).toEqual(parsed);
});

test('what we sign verifies, with its comment; an id keeps its leading zeros', () => {
  expect(verifyMinisign(message, text, publicKey)).toEqual({ trustedComment: 'over the bundle' });
  const named = { ...key, minisignId: '00000000000000A1' };
  const other = signMinisign(message, named, { trustedComment: 'ü\t✓', untrustedComment: 'mine' });
  expect(other.split('\n')[0]).toBe('untrusted comment: mine');
  expect(verifyMinisign(message, other, { ...publicKey, minisignId: named.minisignId })).toEqual({
    trustedComment: 'ü\t✓',
  });
});

const bytes = Buffer.from(signed, 'base64');
const legacy = Buffer.concat([Buffer.from('Ed'), bytes.subarray(2)]).toString('base64');
const strange = Buffer.concat([Buffer.from('eD'), bytes.subarray(2)]).toString('base64');
test.each<[string, string, string]>([
  ['nothing', '', 'has four lines'],
  ['three lines', lines(untrusted, signed, trusted), 'is not the base64 of 64 bytes'],
  ['two lines', lines(untrusted, signed), 'has four lines'],
  ['a fifth line', lines(untrusted, signed, trusted, global, 'x'), 'has four lines'],
  ['an empty fifth line', `${text}\n`, 'has four lines'],
  ['far too long', `${text}${'x'.repeat(20_000)}`, 'has four lines'],
  ['no comment', lines('comment', signed, trusted, global), "signature's first line"],
  [
    'a long comment',
    lines(`untrusted comment: ${'x'.repeat(1010)}`, signed, trusted, global),
    "signature's first line",
  ],
  ['an escape in a comment', lines('untrusted comment: \u001b[2J', signed, trusted, global), "signature's first line"],
  ['no trusted comment', lines(untrusted, signed, 'comment: x', global), "signature's third line"],
  ['a long trusted comment', lines(untrusted, signed, `trusted comment: ${'x'.repeat(8180)}`, global), 'third line'],
  ['a C1 control', lines(untrusted, signed, 'trusted comment: \u009b', global), "signature's third line"],
  ['half a character', lines(untrusted, signed, 'trusted comment: \ud800', global), "signature's third line"],
  ['a key', lines(untrusted, 'RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3', trusted, global), '74 bytes'],
  ['spaces in base64', lines(untrusted, ` ${signed}`, trusted, global), '74 bytes'],
  ['another spelling of the base64', lines(untrusted, signed.replace(/.=$/, '/='), trusted, global), '74 bytes'],
  ['URL base64', lines(untrusted, signed, trusted, global.replace(/.{4}$/, '__==')), '64 bytes'],
  ['the legacy kind', lines(untrusted, legacy, trusted, global), 'legacy kind, which is not prehashed'],
  ['a kind that is none', lines(untrusted, strange, trusted, global), 'of a kind that minisign does not have'],
])('refused as a signature: %s', (_, hostile, sentence) => {
  const [code, message_] = refusalOf(() => parseMinisignSignature(hostile));
  expect(code).toBe('artifacts.bad_signature');
  expect(message_).toContain(sentence);
  expect(refusalOf(() => verifyMinisign(message, hostile, publicKey))).toEqual([code, message_]);
});

test('each flipped bit of signature, global signature, comment or message voids it', () => {
  const flips: string[] = [];
  const attempt = (what: string, hostile: string, over: Uint8Array = message): void => {
    const [code] = refusalOf(() => verifyMinisign(over, hostile, publicKey));
    if (code !== 'artifacts.bad_signature') flips.push(`${what}: ${code}`);
  };
  const flipped = (from: Uint8Array, bit: number) => {
    const copy = Buffer.from(from);
    copy.writeUInt8(copy.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
    return copy;
  };
  for (let bit = 0; bit < bytes.length * 8; bit++)
    attempt(`signature ${bit}`, lines(untrusted, flipped(bytes, bit).toString('base64'), trusted, global));
  const globalBytes = Buffer.from(global, 'base64');
  for (let bit = 0; bit < globalBytes.length * 8; bit++)
    attempt(`global ${bit}`, lines(untrusted, signed, trusted, flipped(globalBytes, bit).toString('base64')));
  for (let bit = 0; bit < message.length * 8; bit++) attempt(`message ${bit}`, text, flipped(message, bit));
  attempt('comment', lines(untrusted, signed, `${trusted}.`, global));
  expect(flips).toEqual([]);
});

test('the key has to be the one named', () => {
  const other = generateMinisignKey();
  expect(
    refusalOf(() => verifyMinisign(message, text, { minisignId: other.minisignId, raw: other.publicRaw })),
  ).toEqual([
    'artifacts.bad_signature',
    `The signature was made with the key ${key.minisignId}, not with ${other.minisignId}.`,
  ]);
  // Ids are chosen by whoever makes a key: the same id with another key behind it proves nothing.
  expect(refusalOf(() => verifyMinisign(message, text, { ...publicKey, raw: other.publicRaw }))[1]).toContain(
    'does not fit these bytes',
  );
});

test('a comment of two lines, or one that would not print, is not written', () => {
  for (const trustedComment of ['a\nb', 'a\rb', '\u0000', 'x'.repeat(9000)])
    expect(refusalOf(() => signMinisign(message, key, { trustedComment }))[0]).toBe('access.bad_key');
  expect(() => formatMinisignPublicKey({ ...publicKey, comment: 'a\nb' })).toThrow('one line of printable text');
  expect(() => minisignIdBytes('e7620f1842b4e81f')).toThrow('16 upper-case hexadecimal digits');
});

const encoded = (algorithm: string, raw: Buffer): string =>
  Buffer.concat([Buffer.from(algorithm), minisignIdBytes(key.minisignId), raw]).toString('base64');
const SMALL = [
  '0100000000000000000000000000000000000000000000000000000000000000',
  '0000000000000000000000000000000000000000000000000000000000000080',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa',
];
test.each<[string, string, string]>([
  ['nothing', '', 'base64 of 42 bytes'],
  ['three lines', `untrusted comment: x\n${encoded('Ed', key.publicRaw)}\nx\n`, 'two lines'],
  ['no comment', `x\n${encoded('Ed', key.publicRaw)}\n`, 'two lines'],
  ['short', encoded('Ed', key.publicRaw.subarray(1)), 'base64 of 42 bytes'],
  ['a kind that is none', encoded('ED', key.publicRaw), 'not an Ed25519 key of minisign'],
  ['a signature', lines(untrusted, signed), 'base64 of 42 bytes'],
  ['a secret key', `untrusted comment: x\n${'A'.repeat(211)}=\n`, 'looks like a secret key or a signature'],
  ['another PEM', '-----BEGIN PUBLIC KEY-----', 'base64 of 42 bytes'],
  ...SMALL.map((hex): [string, string, string] => [
    `small order ${hex.slice(0, 4)}`,
    encoded('Ed', Buffer.from(hex, 'hex')),
    'small order',
  ]),
])('refused as a public key: %s', (_, hostile, sentence) => {
  const [code, said] = refusalOf(() => parseMinisignPublicKey(hostile));
  expect(code).toBe('access.bad_key');
  expect(said).toContain(sentence);
});

test('why small order matters: under such a key a signature that nobody made verifies', () => {
  const [identity = ''] = SMALL;
  const raw = Buffer.from(identity, 'hex');
  const forged = Buffer.concat([raw, Buffer.alloc(32)]);
  expect(nacl.sign.detached.verify(message, forged, raw)).toBe(true); // a verifier that does not look out for it
  const line = Buffer.concat([Buffer.from('ED'), minisignIdBytes(key.minisignId), forged]).toString('base64');
  const hostile = lines(untrusted, line, trusted, forged.toString('base64'));
  expect(refusalOf(() => verifyMinisign(message, hostile, { ...publicKey, raw }))[0]).toBe('artifacts.bad_signature');
});

test('a plain Ed25519 signature of the bytes is none of minisign', () => {
  const pair = generateKeyPair();
  const plain = Buffer.concat([
    Buffer.from('ED'),
    minisignIdBytes(key.minisignId),
    sign(null, message, pair.privateKey),
  ]);
  const named = { minisignId: key.minisignId, raw: pair.publicRaw };
  expect(() => verifyMinisign(message, lines(untrusted, plain.toString('base64'), trusted, global), named)).toThrow(
    'does not fit these bytes',
  );
});
