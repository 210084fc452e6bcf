import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Envelope, PAYLOAD_TYPES } from '@aegis/protocol/access/dsse';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { generateKeyPair, type KeyPair, keyPairFromPem } from '@aegis/protocol/access/keys';
import { openTrustBundle, signTrustBundle, type TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { draftTrust, publishTrust, type TrustChange, type TrustDraft } from '@aegis/protocol/access/trust-endpoints';
import type { TestServer } from './start-test-server.ts';

/** Changes of the trust bundle as an admin and the holders of the root's keys make them. */

export const base64 = ({ publicRaw }: KeyPair) => publicRaw.toString('base64');
export const [alice, bob, carol, mallory] = [
  generateKeyPair(),
  generateKeyPair(),
  generateKeyPair(),
  generateKeyPair(),
];
export const rootPem = (server: { dataDir: string }) => join(server.dataDir, 'keys', 'root.pem');
export const rootOf = (server: TestServer): KeyPair => keyPairFromPem(readFileSync(rootPem(server), 'utf8'));
export const current = async (server: TestServer): Promise<TrustBundle> => {
  const { trust_bundle, root_fingerprint } = await server.as('anyone').call(showTrust);
  return openTrustBundle(trust_bundle, root_fingerprint, 0).bundle;
};
export const drafted = (server: TestServer, body: TrustChange) => server.as('admin').call(draftTrust, { body });
/** As `aegis access trust sign` does it. */
export const signedBy = (draft: TrustDraft, ...pairs: KeyPair[]): Envelope => {
  const payload = JSON.parse(atob(draft.payload)) as TrustBundle;
  const { signatures } = pairs.length > 0 ? signTrustBundle(payload, ...pairs) : { signatures: [] };
  return { payloadType: PAYLOAD_TYPES.trust, payload: draft.payload, signatures: [...draft.signatures, ...signatures] };
};
export const publish = (server: TestServer, trust_bundle: Envelope) =>
  server.as('admin').call(publishTrust, { body: { trust_bundle } });
export const refusal = async (work: Promise<unknown>): Promise<string> => {
  const error = await work.then(
    () => 'it was not refused',
    (reason: unknown) => reason,
  );
  return error instanceof Error ? error.message : String(error);
};
export const added = (pair: KeyPair, usage: 'artifacts' | 'operate' = 'artifacts') => ({
  public_key: base64(pair),
  name: `key ${pair.keyId.slice(0, 8)}`,
  usage: [usage],
});
