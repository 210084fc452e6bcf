import { kidOf } from '@aegis/protocol/access/jwt';
import { AegisError } from '@aegis/protocol/errors';
import type { DevActor, NodeActor } from '../platform/http/actor.ts';
import { type Authenticate, bearerOf } from '../platform/http/mount.ts';
import { devRuleAllows } from './dev-rule.ts';
import type { NodeTokens } from './node-tokens.ts';
import type { TokensService } from './tokens-service.ts';

const DEV: DevActor = { kind: 'dev', id: 'dev', name: 'dev', role: 'admin', scope: null };

/** From a request's credentials to who calls. A credential that is there and wrong is never overlooked, under `--dev` neither. */
export const authenticator = (parts: {
  tokens: Pick<TokensService, 'actorOf'>;
  nodeTokens: NodeTokens;
  /** The active node of that uid. @throws AegisError nodes.retired, access.unauthenticated */
  nodeOf: (uid: string) => Promise<NodeActor>;
  /** The active keyless agent that has this API key. @throws AegisError access.unauthenticated, nodes.retired, nodes.deactivated */
  agentOf: (apiKey: string) => Promise<NodeActor>;
  dev: boolean;
}): Authenticate => {
  return async (request) => {
    const apiKey = request.headers['x-agent-api-key'];
    if (apiKey !== undefined) {
      if (!request.agentKey)
        throw new AegisError(
          'access.unauthenticated',
          "An agent's API key opens /api/agent/* alone. Send an operator or node token as Bearer.",
        );
      if (request.headers.authorization !== undefined)
        throw new AegisError('access.unauthenticated', 'Send X-Agent-API-Key or Authorization, not both.');
      return parts.agentOf(String(apiKey));
    }
    if (request.headers.authorization === undefined) return parts.dev && devRuleAllows(request) ? DEV : null;
    const bearer = bearerOf(request.headers);
    if (bearer?.startsWith('aegis_')) return parts.tokens.actorOf(bearer);
    // A node's token names no key. Whoever claims the other kind is verified as that, audience and all.
    if (bearer?.startsWith('eyJ'))
      return kidOf(bearer) === null ? parts.nodeOf(parts.nodeTokens.verify(bearer)) : parts.tokens.actorOf(bearer);
    throw new AegisError(
      'access.unauthenticated',
      'The Authorization header holds no token of this server. Send "Bearer" and an operator or node token.',
    );
  };
};
