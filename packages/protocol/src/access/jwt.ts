import { createHmac, type KeyObject, sign, timingSafeEqual, verify } from 'node:crypto';
import * as z from 'zod/mini';
import { parseStrictJson } from './strict-json.ts';

/** JSON Web Tokens (RFC 7519) in compact form with two algorithms: HS256 (RFC 7518) and EdDSA over Ed25519 (RFC 8037). A key has one
 *  algorithm and a name, and a token is good under that key alone: what its header says of the algorithm is compared, never followed.
 *  There is one encoding of each token, so that nothing about it can be changed and still be good. */

export type JwtKey =
  | {
      readonly alg: 'EdDSA';
      readonly kid: string | null;
      readonly publicKey: KeyObject;
      readonly privateKey: KeyObject;
    }
  | { readonly alg: 'HS256'; readonly kid: string | null; readonly secret: Buffer };

/** Longer ones are refused before anything is decoded. */
export const MAX_JWT_CHARS = 8192;
const MAX_DEPTH = 8;
const COMPACT = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/;
/** No `crit`, no keys and no addresses of keys. */
const Header = z.strictObject({ alg: z.string(), typ: z.literal('JWT'), kid: z.optional(z.string()) });

export const signJwt = (key: JwtKey, claims: Readonly<Record<string, unknown>>): string => {
  const header = { alg: key.alg, typ: 'JWT', ...(key.kid === null ? {} : { kid: key.kid }) };
  const signed = `${encoded(header)}.${encoded(claims)}`;
  return `${signed}.${signatureOf(key, signed).toString('base64url')}`;
};

/** The claims as they are in the token; what they say is for the caller to judge.
 *  @throws SyntaxError, RangeError, ZodError when it is no JWT, or not one of this key */
export const verifyJwt = (text: string, keys: readonly JwtKey[]): unknown => {
  const { header, payload, signature, signed } = partsOf(text);
  const kid = header.kid ?? null;
  const key = keys.find((one) => one.kid === kid);
  if (!key) throw new RangeError('the key that it names is none of ours');
  if (header.alg !== key.alg) throw new RangeError('its algorithm is not the one of its key');
  if (!isSignature(key, signed, signature)) throw new RangeError('its signature is not good');
  return parseStrictJson(utf8(payload), MAX_DEPTH);
};

/** The name of the key that a token says it is signed with: unverified, to tell apart who has to verify it. Null when it names none, or is
 *  not readable. */
export const kidOf = (text: string): string | null => {
  try {
    return partsOf(text).header.kid ?? null;
  } catch {
    return null; // whoever verifies it refuses it
  }
};

const partsOf = (text: string) => {
  if (text.length > MAX_JWT_CHARS) throw new RangeError(`it is longer than ${MAX_JWT_CHARS} characters`);
  if (!COMPACT.test(text)) throw new SyntaxError('it is no JWT in compact form');
  const [header = '', payload = '', signature = ''] = text.split('.');
  return {
    header: z.parse(Header, parseStrictJson(utf8(decoded(header)), MAX_DEPTH)),
    payload: decoded(payload),
    signature: decoded(signature),
    signed: `${header}.${payload}`,
  };
};

const signatureOf = (key: JwtKey, signed: string): Buffer =>
  key.alg === 'HS256'
    ? createHmac('sha256', key.secret).update(signed).digest()
    : sign(null, Buffer.from(signed), key.privateKey);

const isSignature = (key: JwtKey, signed: string, signature: Buffer): boolean => {
  if (key.alg === 'EdDSA')
    return signature.length === 64 && verify(null, Buffer.from(signed), key.publicKey, signature);
  const wanted = signatureOf(key, signed);
  return signature.length === wanted.length && timingSafeEqual(signature, wanted);
};

const encoded = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
/** @throws SyntaxError when there is another way to write the same bytes */
const decoded = (text: string): Buffer => {
  const bytes = Buffer.from(text, 'base64url');
  if (bytes.toString('base64url') !== text) throw new SyntaxError('its base64url is not the only one of its bytes');
  return bytes;
};
const utf8 = (bytes: Buffer): string => new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
