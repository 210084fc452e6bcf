import { readdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { type Envelope, PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import { addKey, revokeKey, showTrust } from '@aegis/protocol/access/endpoints';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import type { TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { digestOf } from '@aegis/protocol/access/trust-chain';
import { draftTrust, publishTrust } from '@aegis/protocol/access/trust-endpoints';
import { expect, test } from 'vitest';
import { waitFor } from '../faults/wait.ts';
import { type HeldNode, startHeldFleet } from '../fleet/in-process.ts';

/** A key's life across the fleet: the real server, real daemons, and somebody between them who shows what suits him. */

const newKey = () => generateKeyPair().publicRaw.toString('base64');
const added = (public_key: string) => ({ body: { public_key, name: 'release', usage: ['artifacts' as const] } });

/** What the node has on disk beside the bundle of its enrolment; null before it was told of any. */
const heldBy = (node: HeldNode): TrustBundle | null => {
  if (!readdirSync(node.dataDir).includes('trust.json')) return null;
  const { trust_bundle } = JSON.parse(readFileSync(join(node.dataDir, 'trust.json'), 'utf8')) as {
    trust_bundle: Envelope;
  };
  return JSON.parse(atob(trust_bundle.payload)) as TrustBundle;
};
const holds = (node: HeldNode, version: number) =>
  waitFor(`${node.name} to hold version ${version}`, () => (heldBy(node)?.version ?? 1) === version);
const obeys = async (fleet: Awaited<ReturnType<typeof startHeldFleet>>, node: HeldNode): Promise<void> => {
  const run = await fleet.api.submit({ targets: [node.name], payload: { argv: ['true'] }, command_type: 'exec' });
  expect((await run.finished()).map(({ state }) => state)).toEqual(['succeeded']);
};

test('added and revoked keys reach every node at once, and one that was away when it comes back', async () => {
  await using fleet = await startHeldFleet();
  const [here, away] = [fleet.node('here'), fleet.node('away')];
  await Promise.all([here.start(), away.start()]);
  expect([heldBy(here), heldBy(away)]).toEqual([null, null]);
  const admin = fleet.server.as('admin');
  const { keyid } = await admin.call(addKey, added(newKey()));
  await Promise.all([holds(here, 2), holds(away, 2)]);
  await away.stop();
  await admin.call(revokeKey, { params: { id: keyid } });
  await holds(here, 3);
  expect(heldBy(away)?.version).toBe(2);
  await away.start();
  await holds(away, 3);
  expect(heldBy(away)?.keys.map(({ name, state }) => [name, state])).toEqual([
    ['server', 'active'],
    ['release', 'revoked'],
  ]);
  await obeys(fleet, away);
  // A node that joins now holds the newest from the start.
  const late = fleet.node('late');
  await late.start();
  const identity = JSON.parse(readFileSync(join(late.dataDir, 'identity.json'), 'utf8')) as { trust_bundle: Envelope };
  expect((JSON.parse(atob(identity.trust_bundle.payload)) as TrustBundle).version).toBe(3);
});

test('a server restored from an old backup takes nothing back on its nodes', async () => {
  await using fleet = await startHeldFleet();
  const node = fleet.node('web-1');
  await node.start();
  const admin = fleet.server.as('admin');
  const { keyid } = await admin.call(addKey, added(newKey()));
  await admin.call(revokeKey, { params: { id: keyid } });
  await holds(node, 3);
  const newest = heldBy(node);
  renameSync(join(fleet.server.dataDir, 'trust/3.json'), join(fleet.folder, 'lost.json'));
  await fleet.server.restart();
  // Other versions 3, 4 and 5, which the root signs, and in which the key is good again.
  for (let at = 0; at < 3; at++) await admin.call(addKey, added(newKey()));
  await obeys(fleet, node);
  expect(heldBy(node)).toEqual(newest);
  // The chains have parted: only a version that the root lets follow both brings them together, and it forgets no revocation.
  const merges = [{ version: 3, digest: digestOf({ payload: btoa(JSON.stringify(newest)) }) }];
  const merge = async () => {
    const { payload, signatures } = await admin.call(draftTrust, { body: { merges } });
    return admin.call(publishTrust, {
      body: { trust_bundle: { payloadType: PAYLOAD_TYPES.trust, payload, signatures } },
    });
  };
  await merge();
  await obeys(fleet, node);
  expect(heldBy(node)).toEqual(newest);
  await admin.call(revokeKey, { params: { id: keyid } });
  await holds(node, 7);
  expect(heldBy(node)?.keys.find((key) => key.keyid === keyid)?.state).toBe('revoked');
  await obeys(fleet, node);
});

test('somebody between server and node cannot make it trust a key or forget a revocation', async () => {
  await using fleet = await startHeldFleet();
  const node = fleet.node('web-1');
  await node.start();
  const admin = fleet.server.as('admin');
  const { keyid } = await admin.call(addKey, added(newKey()));
  await holds(node, 2);
  const second = (await admin.call(showTrust)).trust_bundle;
  await admin.call(revokeKey, { params: { id: keyid } });
  await holds(node, 3);
  const newest = heldBy(node);
  if (!newest) throw new Error('the node holds no bundle');

  const mallory = generateKeyPair();
  const forged = signEnvelope(
    PAYLOAD_TYPES.trust,
    { ...newest, version: 9, root: { threshold: 1, keys: [mallory.publicRaw.toString('base64')] } },
    mallory,
  );
  for (const shown of [second, forged, { ...forged, signatures: second.signatures }]) {
    let showed = 0;
    node.intercept = async (asked, send) => {
      const answer = await send(asked);
      const path = new URL(asked.url).pathname;
      if (path.startsWith('/artifacts/for-host/')) {
        const told = JSON.parse(answer.body.toString()) as { trust_version: number };
        return { ...answer, body: Buffer.from(JSON.stringify({ ...told, trust_version: 9 })) };
      }
      if (path === '/api/v1/trust/versions')
        return { ...answer, body: Buffer.from(JSON.stringify({ trust_bundles: [shown], newest: 9 })) };
      if (path !== '/api/v1/trust') return answer;
      showed++;
      return { ...answer, body: Buffer.from(JSON.stringify({ trust_bundle: shown, root_fingerprint: mallory.keyId })) };
    };
    await node.stop();
    await node.start();
    await admin.call(addKey, added(newKey())); // something for the node to ask about
    await waitFor('the node to be shown it', () => showed > 0);
    expect(heldBy(node)).toEqual(newest);
    await obeys(fleet, node);
  }
});
