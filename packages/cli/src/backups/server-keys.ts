import { openTrustBundle } from '@aegis/protocol/access/trust-bundle';
import { AegisError } from '@aegis/protocol/errors';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { type KnownNode, SERVER_UID } from './known-nodes.ts';

/** The control server's own signing keys, as the fleet's root vouches for them: with these it signs backups of its own files.
 *  @param wanted the root's fingerprint, where the operator knows it
 *  @throws AegisError access.untrusted, backups.untrusted_node */
export const serverKeys = async (
  api: Api,
  wanted: string | undefined,
  now: number,
): Promise<{ rootFingerprint: string; keys: KnownNode[] }> => {
  const { trust_bundle, root_fingerprint } = await api.call(routes.showTrust);
  if (wanted !== undefined && wanted !== root_fingerprint)
    throw new AegisError(
      'backups.untrusted_node',
      `This fleet's root has the fingerprint ${root_fingerprint}, not the one that was given: its server is not trusted. Find out who answers there.`,
    );
  const { bundle } = openTrustBundle(trust_bundle, root_fingerprint, now);
  const keys = bundle.keys
    .filter(({ state, usage }) => state === 'active' && usage.includes('serve'))
    .map(({ keyid, public_key }) => ({
      uid: SERVER_UID,
      name: 'server',
      keyId: keyid,
      publicKey: public_key,
      sealingKey: null,
    }));
  return { rootFingerprint: root_fingerprint, keys };
};
