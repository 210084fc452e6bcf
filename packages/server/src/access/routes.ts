import * as api from '@aegis/protocol/access/endpoints';
import { type Route, route } from '../platform/http/route.ts';
import type { KeysService } from './keys-service.ts';
import type { TokensService } from './tokens-service.ts';
import type { Trust } from './trust.ts';

/** access/routes: the HTTP door of the access domain. No rules and no SQL here. */
export const accessRoutes = (parts: {
  trust: Pick<Trust, 'current' | 'rootFingerprint'>;
  keys: KeysService;
  tokens: TokensService;
}): Route[] => {
  const { tokens, keys } = parts;
  return [
    route(api.showTrust, () => ({
      trust_bundle: parts.trust.current().envelope,
      root_fingerprint: parts.trust.rootFingerprint(),
    })),
    route(api.listKeys, ({ query }) => keys.list(query)),
    route(api.addKey, ({ body }) => keys.add(body)),
    route(api.revokeKey, ({ params }) => keys.revoke(params.id)),
    route(api.listTokens, ({ query }) => tokens.listTokens(query)),
    route(api.createToken, ({ body }) =>
      tokens.createToken({ name: body.name, role: body.role, ttlSec: body.ttl_sec, scope: body.scope }),
    ),
    route(api.revokeToken, ({ params }) => tokens.revokeToken(params.id)),
    route(api.listJoinTokens, ({ query }) => tokens.listJoinTokens(query)),
    route(api.createJoinToken, ({ body }) =>
      tokens.createJoinToken({ ttlSec: body.ttl_sec, uses: body.uses, site: body.site, labels: body.labels }),
    ),
    route(api.revokeJoinToken, ({ params }) => tokens.revokeJoinToken(params.id)),
  ];
};
