import { createHmac, createPublicKey } from 'node:crypto';
import { expect, test } from 'vitest';
import { type JwtKey, kidOf, MAX_JWT_CHARS, signJwt, verifyJwt } from './jwt.ts';
import { generateKeyPair } from './keys.ts';

const pair = generateKeyPair();
const own: JwtKey = {
  alg: 'EdDSA',
  kid: 'own',
  privateKey: pair.privateKey,
  publicKey: createPublicKey(pair.privateKey),
};
const secret = Buffer.from('a secret of more than 32 characters');
const shared: JwtKey = { alg: 'HS256', kid: null, secret };
const keys = [own, shared];
const claims = { iss: 'lab', n: [1, { a: 'ü' }] };

/** The parts as given, signed by HS256 whatever the header says. */
const made = (header: string, payload: string | Buffer, by: string | Buffer = secret): string => {
  const signed = `${Buffer.from(header).toString('base64url')}.${Buffer.from(payload).toString('base64url')}`;
  return `${signed}.${createHmac('sha256', by).update(signed).digest('base64url')}`;
};
const HS256 = '{"alg":"HS256","typ":"JWT"}';

test('what is signed is read, and under its own key alone', () => {
  for (const key of keys) {
    expect(verifyJwt(signJwt(key, claims), keys)).toEqual(claims);
    expect(kidOf(signJwt(key, claims))).toBe(key.kid);
    expect(() =>
      verifyJwt(
        signJwt(key, claims),
        keys.filter((one) => one !== key),
      ),
    ).toThrow(/none of ours/);
  }
  expect(verifyJwt(made(HS256, '{"a":1}'), keys)).toEqual({ a: 1 });
});

test('the example of RFC 7515, A.1; our own bytes', () => {
  const [header = '', payload = ''] = signJwt(shared, { iss: 'f', aud: 'aegis-node', iat: 1800000000 }).split('.');
  expect(header).toBe('eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9');
  expect(payload).toBe('eyJpc3MiOiJmIiwiYXVkIjoiYWVnaXMtbm9kZSIsImlhdCI6MTgwMDAwMDAwMH0');
  const known = Buffer.from(
    'AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow',
    'base64url',
  );
  const example =
    'eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk';
  expect(verifyJwt(example, [{ alg: 'HS256', kid: null, secret: known }])).toEqual({
    iss: 'joe',
    exp: 1300819380,
    'http://example.com/is_root': true,
  });
});

const good = signJwt(own, claims);
const [header = '', payload = '', signature = ''] = good.split('.');
const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
test.each<[string, string, RegExp]>([
  ['nothing', '', /no JWT/],
  ['two parts', `${header}.${payload}`, /no JWT/],
  ['four parts', `${good}.x`, /no JWT/],
  ['no signature', `${header}.${payload}.`, /no JWT/],
  ['none', `${part({ alg: 'none', typ: 'JWT' })}.${payload}.AA`, /algorithm/],
  ['none, named as our key', `${part({ alg: 'none', typ: 'JWT', kid: 'own' })}.${payload}.${signature}`, /algorithm/],
  ['no algorithm', `${part({ typ: 'JWT', kid: 'own' })}.${payload}.${signature}`, /alg/],
  ['another type', made('{"alg":"HS256","typ":"JWE"}', '{}'), /typ/],
  ['no type', made('{"alg":"HS256"}', '{}'), /typ/],
  ['crit', made('{"alg":"HS256","typ":"JWT","crit":["b64"]}', '{}'), /crit/],
  ['a key of its own', made('{"alg":"HS256","typ":"JWT","jwk":{"kty":"oct","k":"AA"}}', '{}'), /jwk/],
  ['an unknown key', made('{"alg":"HS256","typ":"JWT","kid":"other"}', '{}'), /none of ours/],
  ['the other algorithm', made('{"alg":"HS256","typ":"JWT","kid":"own"}', '{}'), /algorithm/],
  ['another HMAC secret', made(HS256, '{}', 'guessed'), /signature/],
  ['the public key as an HMAC secret', made(HS256, '{}', pair.publicRaw), /signature/],
  ['a signature of another length', `${header}.${payload}.${signature.slice(0, -2)}`, /signature/],
  ['another payload', `${header}.${part({ ...claims, iss: 'x' })}.${signature}`, /signature/],
  ['repeated keys in the payload', made(HS256, '{"a":1,"\\u0061":2}'), /twice/],
  ['repeated keys in the header', made('{"alg":"none","alg":"HS256","typ":"JWT"}', '{}'), /twice/],
  ['a payload that is no JSON', made(HS256, 'a'), /JSON/],
  ['deep nesting', made(HS256, `${'['.repeat(9)}${']'.repeat(9)}`), /nested/],
  ['bytes that are no UTF-8', made(HS256, Buffer.from([0x22, 0xff, 0x22])), /encoded data/],
  ['a byte order mark', made(HS256, '\u{feff}{}'), /JSON/],
  ['oversize', made(HS256, JSON.stringify('x'.repeat(MAX_JWT_CHARS))), /longer/],
  ['padding', `${good}==`, /no JWT/],
  ['a space', ` ${good}`, /no JWT/],
])('refused: %s', (_, text, why) => {
  expect(() => verifyJwt(text, keys)).toThrow(why);
});

test('a token has one text: each other last character of a part is refused', () => {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  for (const text of [good, signJwt(shared, claims)])
    for (const at of [text.indexOf('.') - 1, text.lastIndexOf('.') - 1, text.length - 1])
      for (const other of alphabet)
        if (other !== text[at])
          expect(() => verifyJwt(`${text.slice(0, at)}${other}${text.slice(at + 1)}`, keys)).toThrow();
});

test('what is not readable names no key', () => {
  expect(['', 'a.b.c', 'e30.e30.AA', 'x'.repeat(10_000)].map(kidOf)).toEqual([null, null, null, null]);
});
