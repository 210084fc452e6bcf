import { expect, test } from 'vitest';
import { killedAndBack } from '../../tools/bench/herd/return.ts';
import { startHerdStage } from '../../tools/bench/herd/stage.ts';

/** A server that is killed with a whole fleet connected, and started again; test/integration/herd.test.ts does it with a small one, and bin/bench
 *  has the figures. Nodes are simulated on the real channel, with the daemon's own loop for when to connect again. */

const NODES = 5000;

test('5,000 nodes are back within a minute of kill -9, at most a tenth of handshakes fails in any spike, and operators are answered', async () => {
  await using stage = await startHerdStage(NODES);
  const { fleet, herd } = stage;
  await herd.start(0, NODES);
  await herd.untilUp(NODES, 200_000);
  const { broken, worstBroken, submitMs, backMs, attempts, paced } = await killedAndBack(fleet, herd, NODES, 120_000);
  const said = JSON.stringify({
    backMs,
    attempts,
    paced,
    broken: broken.slice(0, 5),
    slowestMs: Math.max(...submitMs),
  });
  expect(worstBroken, said).toBeLessThanOrEqual(0.1);
  expect(backMs, said).toBeLessThanOrEqual(60_000);
  expect(Math.max(...submitMs), said).toBeLessThan(2000);
  expect((await herd.tell()).up, said).toBe(NODES);
}, 600_000);
