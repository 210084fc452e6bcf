import * as api from '@aegis/protocol/access/endpoints';
import { type Route, route } from '../platform/http/route.ts';
import type { FleetKeys } from './fleet-keys.ts';
import type { TokensService } from './tokens-service.ts';

/** access/routes: the HTTP door of the access domain. No rules and no SQL here. */
export const accessRoutes = (keys: FleetKeys, tokens: TokensService): Route[] => [
  route(api.showTrust, () => ({ trust_bundle: keys.trustBundle, root_fingerprint: keys.rootFingerprint })),
  route(api.listTokens, ({ query }) => tokens.listTokens(query)),
  route(api.createToken, ({ body }) => tokens.createToken({ name: body.name, role: body.role, ttlSec: body.ttl_sec })),
  route(api.revokeToken, ({ params }) => tokens.revokeToken(params.id)),
  route(api.listJoinTokens, ({ query }) => tokens.listJoinTokens(query)),
  route(api.createJoinToken, ({ body }) =>
    tokens.createJoinToken({ ttlSec: body.ttl_sec, uses: body.uses, site: body.site, labels: body.labels }),
  ),
  route(api.revokeJoinToken, ({ params }) => tokens.revokeJoinToken(params.id)),
];
