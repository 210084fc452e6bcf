import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type Envelope, PAYLOAD_TYPES } from '@aegis/protocol/access/dsse';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import { signTrustBundle, type TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { digestOf } from '@aegis/protocol/access/trust-chain';
import { draftTrust, publishTrust, type TrustChange } from '@aegis/protocol/access/trust-endpoints';
import { expect, test } from 'vitest';
import { loadDaemonConfig } from '../../packages/daemon/src/config.ts';
import { startDaemon } from '../../packages/daemon/src/daemon.ts';
import { waitFor } from '../faults/wait.ts';
import { type HeldFleet, type HeldNode, startHeldFleet } from '../fleet/in-process.ts';

/** The server's key and the root are replaced under nodes that run, that were away, that hold a channel, and that join afterwards. */

type Fleet = HeldFleet;
const change = async (fleet: Fleet, body: TrustChange, ...signers: KeyPair[]) => {
  const admin = fleet.server.as('admin');
  const draft = await admin.call(draftTrust, { body });
  const bundle = JSON.parse(atob(draft.payload)) as TrustBundle;
  const added = signers.length > 0 ? signTrustBundle(bundle, ...signers).signatures : [];
  const trust_bundle: Envelope = {
    payloadType: PAYLOAD_TYPES.trust,
    payload: draft.payload,
    signatures: [...draft.signatures, ...added],
  };
  return admin.call(publishTrust, { body: { trust_bundle } });
};
const submitted = (fleet: Fleet, name: string) =>
  fleet.api.submit({ targets: [name], payload: { argv: ['true'] }, command_type: 'exec' });
const obeys = async (fleet: Fleet, name: string): Promise<void> => {
  const run = await submitted(fleet, name);
  expect((await run.finished()).map(({ state }) => state)).toEqual(['succeeded']);
};
const versionOf = (node: HeldNode): number => {
  const { trust_bundle } = JSON.parse(readFileSync(join(node.dataDir, 'trust.json'), 'utf8')) as {
    trust_bundle: Envelope;
  };
  return (JSON.parse(atob(trust_bundle.payload)) as TrustBundle).version;
};
const [alice, bob] = [generateKeyPair(), generateKeyPair()];
const team = {
  threshold: 2,
  keys: [alice, bob].map(({ publicRaw }) => ({ public_key: publicRaw.toString('base64') })),
};

test('nodes that run, and one that was away, obey the server with its new key and the root that followed', async () => {
  await using fleet = await startHeldFleet();
  const [here, away] = [fleet.node('here'), fleet.node('away')];
  await Promise.all([here.start(), away.start()]);
  await away.stop();
  const queued = await submitted(fleet, 'away'); // under the old key
  await change(fleet, { server_key: { overlap_sec: 0 } });
  await obeys(fleet, 'here');
  await change(fleet, { root: team }, alice, bob);
  rmSync(join(fleet.server.dataDir, 'keys', 'root.pem'));
  await change(fleet, { server_key: { overlap_sec: 3600 } }, alice, bob);
  await obeys(fleet, 'here');
  await fleet.server.restart();
  await obeys(fleet, 'here');

  await away.start();
  expect((await queued.finished()).map(({ state }) => state)).toEqual(['succeeded']);
  await waitFor('the node that was away to hold version 4', () => versionOf(away) === 4);
  await obeys(fleet, 'away');
  // The pin of the enrolment still leads there, and a join token of the new root is of this fleet.
  await away.stop();
  await away.start();
  await obeys(fleet, 'away');
  const late = fleet.node('late');
  await late.start();
  await obeys(fleet, 'late');
});

test('a join token that names a root that was replaced enrols nobody, and says why', async () => {
  await using fleet = await startHeldFleet();
  const join_token = await fleet.server.joinToken();
  await change(fleet, { root: team }, alice, bob);
  const node = fleet.node('web-1', { join_token });
  await expect(node.start()).rejects.toThrow(
    "The server's trust bundle is refused: its root key is not the one that the join token names.",
  );
});

test('a node on the channel stays with a server that gets another key, and leaves one whose key was revoked', async () => {
  await using fleet = await startHeldFleet();
  const { config } = loadDaemonConfig({
    flags: {
      data_dir: join(fleet.folder, 'linked'),
      server: fleet.server.url,
      join_token: await fleet.server.joinToken(),
      name: 'linked',
      carrier: 'ws',
    },
    env: {},
  });
  await using all = new AsyncDisposableStack();
  let daemon = all.use(await startDaemon({ config }));
  const up = () => waitFor('the channel to be up', () => daemon.status().carrier === 'ws');
  await up();
  for (const overlap_sec of [3600, 0]) {
    await obeys(fleet, 'linked');
    await change(fleet, { server_key: { overlap_sec } });
    await obeys(fleet, 'linked');
    await up();
  }
  // Away while all that it knew of the server came to an end.
  await daemon.close();
  const queued = await submitted(fleet, 'linked');
  for (let at = 0; at < 2; at++) await change(fleet, { server_key: { overlap_sec: 0 } });
  daemon = all.use(await startDaemon({ config }));
  await up();
  expect((await queued.finished()).map(({ state }) => state)).toEqual(['succeeded']);
  const { trust_bundle, root_fingerprint } = await fleet.server.as('anyone').call(showTrust);
  expect(daemon.status().trust).toMatchObject({ head: `5:${digestOf(trust_bundle)}`, root_fingerprint, state: 'good' });
});
