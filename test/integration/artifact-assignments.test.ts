import { addKey, revokeKey } from '@aegis/protocol/access/endpoints';
import type { Artifact, NodeArtifact } from '@aegis/protocol/artifacts/endpoints';
import { allStatus, artifactsForHost, assignArtifact, unassignArtifact } from '@aegis/protocol/artifacts/endpoints';
import { expect, test } from 'vitest';
import { fakeKernel } from '../../packages/daemon/test/fake-kernel.ts';
import { bundle, publish, registry, signatory, signatureOf } from '../../packages/server/test/artifacts-support.ts';
import { waitFor } from '../faults/wait.ts';
import { type HeldFleet, startHeldFleet } from '../fleet/in-process.ts';

/** Assignments between the real server and the real daemon, over a kernel in memory: what became of each is what the server shows. */

const DAY = 24 * 3_600_000;

/** What is detached for good is only listed when it is asked for. */
const seen = async (fleet: HeldFleet, name: string, state?: NodeArtifact['state']): Promise<NodeArtifact | undefined> =>
  (await fleet.server.as('viewer').call(allStatus, { query: { name, ...(state ? { state } : {}) } })).items[0];
const shown = async (
  fleet: HeldFleet,
  name: string,
  version: string | null,
  state: NodeArtifact['state'],
): Promise<NodeArtifact> => {
  let item: NodeArtifact | undefined;
  await waitFor(`${name} ${version} to be ${state}`, async () => {
    item = await seen(fleet, name, state);
    return item?.version === version && item.state === state;
  });
  if (!item) throw new Error('unreachable');
  return item;
};

const startRegistry = async () => {
  const fleet = await startHeldFleet();
  const { signer, operator, publish: put } = await registry(fleet.server);
  const kernel = fakeKernel();
  const node = fleet.node('web-1');
  const daemon = await node.start({ kernelEngine: kernel.engine });
  const { uid } = daemon;
  const on = ({ artifact_id }: Artifact) => ({ params: { artifact_id, host_id: uid } });
  return {
    fleet,
    signer,
    operator,
    kernel,
    node,
    uid,
    put,
    assign: (artifact: Artifact, constants?: Record<string, string>) =>
      operator.call(assignArtifact, { ...on(artifact), body: constants ? { constants } : {} }),
    unassign: (artifact: Artifact) => operator.call(unassignArtifact, on(artifact)),
    /** Starts the daemon that was stopped. */
    again: () => node.start({ kernelEngine: kernel.engine }),
    [Symbol.asyncDispose]: () => fleet[Symbol.asyncDispose](),
  };
};

test('assigned with constants, upgraded, rolled back and unassigned', async () => {
  await using stage = await startRegistry();
  const { fleet, kernel, assign, put } = stage;
  const [one, two] = [await put('block', '1.0.0'), await put('block', '2.0.0')];
  await assign(one, { target_ip: '198.51.100.7' });
  expect((await shown(fleet, 'block', '1.0.0', 'attached')).report).toMatchObject({ version: '1.0.0', generation: 1 });
  expect(kernel.held.get('block')?.deployment.constants).toEqual([
    { name: 'target_ip', type: 'ipv4', value: '198.51.100.7' },
    { name: 'fixed', type: 'u32', value: 7 },
  ]);
  await assign(two);
  await shown(fleet, 'block', '2.0.0', 'attached');
  await assign(one);
  expect((await shown(fleet, 'block', '1.0.0', 'attached')).report).toMatchObject({ version: '1.0.0', generation: 3 });
  await stage.unassign(one);
  await shown(fleet, 'block', null, 'detached');
  expect(kernel.held.size).toBe(0);
  await assign(two);
  expect((await shown(fleet, 'block', '2.0.0', 'attached')).report).toMatchObject({ generation: 5 });
});

test('a node that was away only ever hears of the tombstone, confirms it, and is not told again', async () => {
  await using stage = await startRegistry();
  const { fleet, kernel, node } = stage;
  await node.stop();
  const artifact = await stage.put('block', '1.0.0');
  await stage.assign(artifact);
  await stage.unassign(artifact);
  await stage.again();
  await shown(fleet, 'block', null, 'detached');
  expect(kernel.calls).toEqual(['remove block']);
  const { total } = await fleet.server.as('viewer').call(artifactsForHost, { params: { host_id: stage.uid } });
  expect(total).toBe(0);
  await node.stop();
  await stage.assign(artifact);
  await stage.again();
  await shown(fleet, 'block', '1.0.0', 'attached');
});

test('a node that was away for longer than a directive holds still gets one that it takes', async () => {
  await using stage = await startRegistry();
  const { fleet, node } = stage;
  await node.stop();
  await stage.assign(await stage.put('block', '1.0.0'));
  fleet.serverClock.offsetMs = 9 * DAY;
  node.clock.offsetMs = 9 * DAY;
  await stage.again();
  expect((await shown(fleet, 'block', '1.0.0', 'attached')).report).toMatchObject({ generation: 1 });
});

test('a key added after the assignment, and revoked while the artifact runs', async () => {
  await using stage = await startRegistry();
  const { fleet } = stage;
  const admin = fleet.server.as('admin');
  const bob = signatory();
  const added = await admin.call(addKey, { body: { name: 'bob', public_key: bob.publicKey, usage: ['artifacts'] } });
  const made = await bundle('block', '1.0.0');
  const artifact = await publish(stage.operator, made, signatureOf(made, bob));
  await stage.assign(artifact);
  await shown(fleet, 'block', '1.0.0', 'attached');
  await admin.call(revokeKey, { params: { id: added.keyid } });
  await waitFor(
    'the node to say so',
    async () => (await seen(fleet, 'block'))?.report?.reason?.code === 'artifacts.revoked_signer',
  );
  expect((await seen(fleet, 'block'))?.state).toBe('attached');
});

test('a failed upgrade, an interface that is not there, and drift stand in the status', async () => {
  await using stage = await startRegistry();
  const { fleet, kernel } = stage;
  const one = await stage.put('block', '1.0.0');
  kernel.absent.add('cgroup_skb');
  await stage.assign(one);
  expect((await shown(fleet, 'block', '1.0.0', 'loaded')).report?.attachments).toMatchObject([{ state: 'waiting' }]);
  kernel.absent.clear();
  const drift = { at: new Date().toISOString(), what: 'link_missing', detail: 'drop', repaired: true };
  kernel.drift.push(drift);
  await stage.node.daemon?.reconcile();
  expect((await shown(fleet, 'block', '1.0.0', 'attached')).report?.drift).toEqual([drift]);
});
