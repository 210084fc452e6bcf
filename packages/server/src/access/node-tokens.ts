import { type JwtKey, signJwt, verifyJwt } from '@aegis/protocol/access/jwt';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';

/** Node tokens: HS256 JWTs whose subject is the node's uid. They say who calls; whether that node is still active is asked
 *  of the registry at each request. They name no key, and their audience is not the operators'. */

export const NODE_AUDIENCE = 'aegis-node';
const Claims = z.object({ sub: z.uuid(), iat: z.int(), exp: z.int() });
type Claims = z.infer<typeof Claims>;
const TOKENS_KEPT = 10_000;

export interface NodeTokens {
  /** The same arguments give the same bytes, so that a repeated enrolment answers as the first did. */
  issue(uid: string, issuedAtMs: number, ttlSec: number): { token: string; expiresAtMs: number };
  /** The uid. @throws AegisError access.unauthenticated */
  verify(token: string): string;
}

export const nodeTokens = (options: { secret: string; fleet: string; now: () => number }): NodeTokens => {
  const key: JwtKey = { alg: 'HS256', kid: null, secret: Buffer.from(options.secret) };
  const Own = z.extend(Claims, { iss: z.literal(options.fleet), aud: z.literal(NODE_AUDIENCE) });
  // A token is good or not for ever, but for its end; checking one costs more than most of what its node asks for.
  const good = new Map<string, Claims>();
  const claimsOf = (token: string): Claims => {
    const known = good.get(token);
    if (known) return known;
    const { sub, iat, exp } = z.parse(Own, verifyJwt(token, [key]));
    const claims = { sub, iat, exp };
    if (good.size >= TOKENS_KEPT) good.delete(good.keys().next().value ?? '');
    good.set(token, claims);
    return claims;
  };
  return {
    issue: (sub, issuedAtMs, ttlSec) => {
      const iat = Math.floor(issuedAtMs / 1000);
      const exp = iat + ttlSec;
      return {
        token: signJwt(key, { iss: options.fleet, aud: NODE_AUDIENCE, sub, iat, exp }),
        expiresAtMs: exp * 1000,
      };
    },
    verify: (token) => {
      let claims: Claims;
      try {
        claims = claimsOf(token);
      } catch (cause) {
        throw new AegisError('access.unauthenticated', 'This node token is not good. Enrol the node anew.', { cause });
      }
      if (claims.exp * 1000 <= options.now())
        throw new AegisError(
          'access.unauthenticated',
          'This node token has expired. Ask for a fresh one (POST /agents/token).',
        );
      return claims.sub;
    },
  };
};
