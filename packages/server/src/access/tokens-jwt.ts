import { createHash, createHmac, createPublicKey } from 'node:crypto';
import { join } from 'node:path';
import { type JwtKey, signJwt, verifyJwt } from '@aegis/protocol/access/jwt';
import { generateKeyPair, type KeyPair, keyPairFromPem, privateKeyToPem } from '@aegis/protocol/access/keys';
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

/** `keys/tokens.pem`, made at the first need; private. The server's own key signs what nodes obey, and nothing else. */
export const tokenKeyPair = (dataDir: string): KeyPair => {
  const path = join(dataDir, 'keys', 'tokens.pem');
  const held = readPrivateFile(path);
  if (held === null) createPrivateFile(path, privateKeyToPem(generateKeyPair().privateKey));
  const pem = held ?? readPrivateFile(path); // another process may have been first
  try {
    if (pem !== null) return keyPairFromPem(pem);
  } catch {
    // without the cause: it could quote the key
  }
  throw new AegisError(
    'config.invalid',
    `${path} is damaged. Restore it, or remove it: then new tokens have to be made.`,
  );
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
