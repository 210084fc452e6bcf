import * as nodes from '@aegis/protocol/nodes/endpoints';
import { expect, test } from 'vitest';
import { handClock, startTestServer } from './start-test-server.ts';

/** Who is let in by whom: test/integration/access-matrix.test.ts calls every route as everyone. */

test('failed credentials are limited per address', async () => {
  await using server = await startTestServer({
    clock: handClock(),
    config: { rate_limits_failed_auth_burst: 3, rate_limits_failed_auth_per_sec: 1 },
  });
  const bad = server.withToken('garbage');
  const statuses: number[] = [];
  for (let at = 0; at < 5; at++) statuses.push((await bad.send(nodes.listAgents)).status);
  expect(statuses).toEqual([401, 401, 401, 429, 429]);
  expect((await bad.send(nodes.listAgents)).headers.get('retry-after')).toBe('1');
  expect((await server.as('viewer').send(nodes.listAgents)).status).toBe(200);
});
