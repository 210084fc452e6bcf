import { timingSafeEqual } from 'node:crypto';
import { parseJoinToken } from '@aegis/protocol/access/join-token';
import { AegisError } from '@aegis/protocol/errors';
import type { RegisterKeyless, RegisterKeylessAnswer } from '@aegis/protocol/nodes/enrolment';
import type { z } from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import type { Actor } from '../platform/http/actor.ts';
import { keylessRow } from './enrolled-row.ts';
import { badJoinToken, type JoinTokens, nameTaken, type TokenIssuer } from './enrolment-service.ts';
import type { NodesRepository } from './repository.ts';

/** Keyless pollers (seed 002's register): known by a token alone, so marked, and never given what needs a key. Their token cannot
 *  be renewed by proof of a key, hence its long life; retiring the node ends it at once. */

export const keylessService = (parts: {
  nodes: NodesRepository;
  joinTokens: JoinTokens;
  tokens: TokenIssuer;
  clock: Clock;
  newId: () => string;
  allowed: boolean;
  tokenTtlSec: number;
  /** Told of each node that is new. */
  changed: (uid: string) => void;
}) => ({
  /** An admin, the dev mode, or a join token as bearer may. Under the dev mode the same name gets the same answer again. */
  register: async (
    wanted: z.infer<typeof RegisterKeyless>,
    caller: { actor: Actor | null; bearer: string | undefined },
  ): Promise<z.infer<typeof RegisterKeylessAnswer>> => {
    if (!parts.allowed)
      throw new AegisError(
        'nodes.keyless_disabled',
        "This server takes no keyless nodes (nodes.keyless). Enrol with a key: 'aegis register'.",
      );
    const tokenId = mayRegister(parts.joinTokens, caller);
    const row = await parts.nodes.write('nodes.register-keyless', async (tx) => {
      const known = await parts.nodes.byNameIn(tx, wanted.node_id);
      if (known?.keyless === 1 && caller.actor?.kind === 'dev') return known;
      if (known) throw nameTaken(wanted.node_id);
      const granted = tokenId === null ? null : await parts.joinTokens.useJoinToken(tx, tokenId);
      if (tokenId !== null && !granted) throw badJoinToken();
      const made = keylessRow(parts.newId(), wanted.node_id, wanted.attrs, granted, parts.clock.now());
      if (!(await parts.nodes.insert(tx, made))) throw nameTaken(wanted.node_id);
      return made;
    });
    parts.changed(row.uid);
    return { node_id: row.name, token: parts.tokens.issue(row.uid, row.created_at, parts.tokenTtlSec).token };
  },
});
export type KeylessService = ReturnType<typeof keylessService>;

/** The id of the join token to count, or null for a caller who needs none.
 *  @throws AegisError access.unauthenticated, access.forbidden, nodes.bad_join_token */
const mayRegister = (
  joinTokens: JoinTokens,
  { actor, bearer }: { actor: Actor | null; bearer: string | undefined },
): string | null => {
  if (actor && actor.kind !== 'node' && actor.scope !== null)
    throw new AegisError(
      'access.beyond_scope',
      'Registering a node is about the whole fleet, and the token has a scope. Use a join token, or an admin token without a scope.',
    );
  if (actor && actor.kind !== 'node' && actor.role === 'admin') return null;
  if (actor)
    throw new AegisError('access.forbidden', 'Registering a keyless node needs a join token as Bearer, or an admin.');
  if (bearer === undefined || !bearer.startsWith('aegis1.'))
    throw new AegisError('access.unauthenticated', 'Send a join token as Bearer, or an admin token.');
  const token = parseJoinToken(bearer);
  const expected = Buffer.from(joinTokens.joinSecret(token.id), 'base64url');
  const given = Buffer.from(token.secret, 'base64url');
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) throw badJoinToken();
  return token.id;
};
