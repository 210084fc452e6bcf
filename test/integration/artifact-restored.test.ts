import { execFileSync } from 'node:child_process';
import { renameSync, rmSync } from 'node:fs';
import { allStatus, assignArtifact, unassignArtifact } from '@aegis/protocol/artifacts/endpoints';
import { expect, test } from 'vitest';
import { fakeKernel } from '../../packages/daemon/test/fake-kernel.ts';
import { registry } from '../../packages/server/test/artifacts-support.ts';
import { waitFor } from '../faults/wait.ts';
import { startHeldFleet } from '../fleet/in-process.ts';

/** Disks that were set back to an older snapshot: in the end the node runs what the server wishes. */

const start = async () => {
  const fleet = await startHeldFleet();
  const { operator, publish } = await registry(fleet.server);
  const kernel = fakeKernel();
  const node = fleet.node('web-1');
  const { uid } = await node.start({ kernelEngine: kernel.engine });
  const { artifact_id } = await publish('block', '1.0.0');
  const on = { params: { artifact_id, host_id: uid } };
  const listed = async (state?: 'detached') =>
    (await operator.call(allStatus, { query: { name: 'block', ...(state ? { state } : {}) } })).items[0];
  return {
    kernel,
    node,
    assign: () => operator.call(assignArtifact, on),
    unassign: () => operator.call(unassignArtifact, on),
    attached: () =>
      waitFor('it to be attached', async () => (await listed())?.state === 'attached' && kernel.held.has('block')),
    /** Confirmed: it is listed where detached ones are asked for, and nowhere else. */
    detached: (generation: number) =>
      waitFor(`generation ${generation} to be detached`, async () => {
        const gone = await listed('detached');
        return gone?.generation === generation && (await listed()) === undefined && !kernel.held.has('block');
      }),
    [Symbol.asyncDispose]: () => fleet[Symbol.asyncDispose](),
  };
};

test('a node of before an unassignment takes it off again, once', async () => {
  await using stage = await start();
  const { kernel, node } = stage;
  const snapshot = `${node.dataDir}.snapshot`;
  await stage.assign();
  await stage.attached();
  await node.stop();
  execFileSync('cp', ['-a', node.dataDir, snapshot]);
  await node.start({ kernelEngine: kernel.engine });
  await stage.unassign();
  await stage.detached(2);
  await node.stop();
  rmSync(node.dataDir, { recursive: true });
  renameSync(snapshot, node.dataDir);
  const before = kernel.calls.length;
  await node.start({ kernelEngine: kernel.engine, bootId: 'the next one' });
  // What it says of it now; at the latest it says all again after an hour.
  kernel.drift.push({ at: new Date().toISOString(), what: 'link_missing', detail: 'drop', repaired: true });
  await node.daemon?.reconcile();
  await stage.detached(3);
  expect(kernel.calls.slice(before).at(-1)).toBe('remove block');
  await stage.assign();
  await stage.attached();
});
