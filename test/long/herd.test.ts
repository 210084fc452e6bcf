import { expect, test } from 'vitest';
import { operatorOf, wallClockMs } from '../../tools/bench/bench-fleet.ts';
import { killedAndBack } from '../../tools/bench/herd/return.ts';
import { startHerdStage } from '../../tools/bench/herd/stage.ts';
import { waitFor } from '../faults/wait.ts';

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

test('one command to 5,000 nodes, with room for few of the answers: every result is stored once, the submitter is answered at once, nobody is cut off', async () => {
  await using stage = await startHerdStage(NODES, { env: { AEGIS_MAX_WAITING_WRITES: '512' } });
  const { fleet, herd } = stage;
  const operator = operatorOf(fleet.url, fleet.token);
  await herd.start(0, NODES);
  await herd.untilUp(NODES, 200_000);
  await herd.tell();
  const before = wallClockMs();
  const id = await operator.submit({ command_type: 'RunCommand', payload: { argv: ['true'] }, targets: ['all'] });
  const answeredMs = wallClockMs() - before;
  const stored: string[] = [];
  const attempts: unknown[] = [];
  await waitFor(
    'every result',
    async () => {
      const told = await herd.tell();
      for (const { commandId } of told.stored) stored.push(commandId);
      attempts.push(...told.attempts);
      return stored.length >= NODES;
    },
    60_000,
    () => `${stored.length} are there`,
  );
  expect(stored).toEqual(Array.from({ length: NODES }, () => id));
  expect(attempts, 'connections that were made anew').toEqual([]);
  expect(answeredMs).toBeLessThan(5000);
  expect(await operator.ask('GET', `/api/v1/commands/${id}`)).toMatchObject({
    state: 'succeeded',
    result: { succeeded: NODES },
  });
  await operator.close();
}, 600_000);
