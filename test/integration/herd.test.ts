import { expect, test } from 'vitest';
import { killedAndBack } from '../../tools/bench/herd/return.ts';
import { startHerdStage } from '../../tools/bench/herd/stage.ts';

/** As test/long/herd.test.ts with 5,000; here nothing is said of how long it takes, because the suite shares its machine. */
test('a small herd comes back after kill -9 of its server: no handshake is broken, operators are answered meanwhile', async () => {
  const nodes = 300;
  await using stage = await startHerdStage(nodes);
  const { fleet, herd } = stage;
  await herd.start(0, nodes);
  await herd.untilUp(nodes, 40_000);
  const { broken, submitMs } = await killedAndBack(fleet, herd, nodes, 40_000);
  expect(broken).toEqual([]);
  expect(submitMs.length).toBeGreaterThan(0);
  expect((await herd.tell()).up).toBe(nodes);
}, 120_000);
