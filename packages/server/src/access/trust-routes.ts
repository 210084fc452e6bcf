import { digestOf } from '@aegis/protocol/access/trust-chain';
import { draftTrust, publishTrust, walkTrust } from '@aegis/protocol/access/trust-endpoints';
import { type Route, route } from '../platform/http/route.ts';
import type { Trust } from './trust.ts';

/** The doors of the trust bundle's versions. No rules here. */
export const trustRoutes = (trust: Trust): Route[] => [
  route(walkTrust, ({ query }) => ({ trust_bundles: trust.versions(query.from), newest: trust.current().version })),
  route(draftTrust, ({ body }) => trust.draft(body)),
  route(publishTrust, async ({ body }) => {
    const { version, bundle, envelope } = await trust.publish(body.trust_bundle);
    const head = `${version}:${digestOf(envelope)}`;
    return { trust_version: version, head, root_fingerprint: trust.rootFingerprint(), expires_at: bundle.expires_at };
  }),
];
