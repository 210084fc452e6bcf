import { createHash, createHmac, createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type JwtKey, signJwt, verifyJwt } from '@aegis/protocol/access/jwt';
import { generateKeyPair, type KeyPair, keyPairFrom, privateKeyToPem, rawPublicKey } from '@aegis/protocol/access/keys';
import type { Role } from '@aegis/protocol/access/roles';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { createPrivateFile, readPrivateFile } from './private-files.ts';

/** Operator tokens as JWTs that somebody in front of the server can check as well: EdDSA under a key of their own, HS256 under
 *  `jwt_signing_secret` where that is set. A good signature is half of it: the token's row has to name this very text, so that
 *  whoever has a signing key alone has no token (tokens-service.ts). */

export const OPERATOR_AUDIENCE = 'aegis-operator';
/** How far another's clock may be ahead of ours: as at enrolment. */
const SKEW_SEC = 300;
const TOKENS_KEPT = 10_000;

const Claims = z.object({
  sub: z.string(),
  jti: z.string().check(z.regex(/^[0-9a-f]{16}$/)),
  iat: z.int(),
  nbf: z.optional(z.int()),
  exp: z.int(),
});
type Claims = z.infer<typeof Claims>;

export interface OperatorJwts {
  issue(token: {
    id: string;
    name: string;
    role: Role;
    scope: string | null;
    createdAtMs: number;
    expiresAtMs: number;
    /** What no key makes up again: 128 random bits. */
    random: string;
  }): string;
  /** The token's id. @throws AegisError access.unauthenticated */
  verify(token: string): string;
}

/** Where the key is kept that signs tokens, and what it is checked against. */
export interface TokenKeyFiles {
  token_key: string | null;
  token_public_key: string | null;
}

/** That of the settings, else `keys/tokens.pem`, made at the first need; private. The server's own key signs what nodes obey, and nothing
 *  else. @throws AegisError config.invalid */
export const tokenKeyPair = (dataDir: string, given?: TokenKeyFiles): KeyPair => {
  const path = given?.token_key ?? join(dataDir, 'keys', 'tokens.pem');
  let pem = readPrivateFile(path);
  if (pem === null && !given?.token_key) {
    createPrivateFile(path, privateKeyToPem(generateKeyPair().privateKey));
    pem = readPrivateFile(path); // another process may have been first
  }
  const pair = pem === null ? null : ed25519From(() => createPrivateKey(pem));
  if (!pair)
    throw new AegisError(
      'config.invalid',
      given?.token_key
        ? `token_key: ${path} is no Ed25519 private key. 'openssl genpkey -algorithm ed25519' makes one; the file is 0600 and the server's.`
        : `${path} is damaged. Restore it, or remove it: then new tokens have to be made.`,
    );
  const publicPath = given?.token_public_key;
  if (publicPath && !isPublicKeyOf(pair, publicPath))
    throw new AegisError(
      'config.invalid',
      `token_public_key: ${publicPath} is not the public key of ${path}. 'openssl pkey -in ${path} -pubout' prints that.`,
    );
  return pair;
};

/** Null, without the cause, which could quote the key. */
const ed25519From = (read: () => KeyObject): KeyPair | null => {
  try {
    const key = read();
    return key.asymmetricKeyType === 'ed25519' ? keyPairFrom(key) : null;
  } catch {
    return null;
  }
};
const isPublicKeyOf = ({ publicRaw }: KeyPair, path: string): boolean => {
  try {
    return rawPublicKey(createPublicKey(readFileSync(path))).equals(publicRaw);
  } catch {
    return false;
  }
};

export const operatorJwts = (on: {
  fleet: string;
  pair: KeyPair;
  /** `jwt_signing_secret`. */
  secret: string | null;
  now: () => number;
}): OperatorJwts => {
  const own: JwtKey = {
    alg: 'EdDSA',
    kid: on.pair.keyId.slice(0, 16),
    privateKey: on.pair.privateKey,
    publicKey: createPublicKey(on.pair.privateKey),
  };
  // Tokens from before the secret was set stay good here, though not at a gateway.
  const keys = on.secret === null ? [own] : [sharedKey(on.secret), own];
  const issuing = keys[0] ?? own;
  // Under the same keys a text is good for ever, but for its end; by digest, so that no text of a token stays in memory.
  const good = new Map<string, Claims>();
  const claimsOf = (token: string): Claims => {
    const digest = createHash('sha256').update(token).digest('base64');
    const known = good.get(digest);
    if (known) return known;
    const { iss, aud, ...claims } = z.parse(
      z.extend(Claims, { iss: z.literal(on.fleet), aud: z.literal(OPERATOR_AUDIENCE) }),
      verifyJwt(token, keys),
    );
    if (good.size >= TOKENS_KEPT) good.delete(good.keys().next().value ?? '');
    good.set(digest, claims);
    return claims;
  };
  return {
    issue: ({ id, name, role, scope, createdAtMs, expiresAtMs, random }) =>
      signJwt(issuing, {
        iss: on.fleet,
        aud: OPERATOR_AUDIENCE,
        sub: name,
        jti: id,
        role,
        ...(scope === null ? {} : { scope }),
        iat: Math.floor(createdAtMs / 1000),
        exp: Math.ceil(expiresAtMs / 1000),
        rnd: random,
      }),
    verify: (token) => {
      try {
        const { jti, iat, nbf = iat, exp } = claimsOf(token);
        const nowSec = on.now() / 1000;
        if (exp <= nowSec) throw new RangeError('it has expired');
        if (Math.max(iat, nbf) > nowSec + SKEW_SEC) throw new RangeError('it is not good yet');
        return jti;
      } catch (cause) {
        throw badToken(cause);
      }
    },
  };
};

/** Unknown, expired, revoked, forged: one and the same to the caller. */
export const badToken = (cause?: unknown): AegisError =>
  new AegisError(
    'access.unauthenticated',
    "This operator token is not good (unknown, expired or revoked). Make one with 'aegis server token'.",
    { cause },
  );

/** Its name tells nothing of the secret, and another secret has another. */
const sharedKey = (text: string): JwtKey => {
  const secret = Buffer.from(text);
  const kid = createHmac('sha256', secret).update('aegis-operator-kid').digest('hex').slice(0, 16);
  return { alg: 'HS256', kid, secret };
};
