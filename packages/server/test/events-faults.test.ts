import { once } from 'node:events';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import Fastify from 'fastify';
import { expect, test } from 'vitest';
import { eventsRoutes } from '../src/events/routes.ts';
import type { Actor } from '../src/platform/http/actor.ts';
import { bodyBudget } from '../src/platform/http/body-budget.ts';
import { mountRoutes } from '../src/platform/http/mount.ts';
import { silentLog } from '../src/platform/log.ts';
import { startTestServer } from './start-test-server.ts';

/** The stream of events where something fails at the wrong moment: nothing leaks, and nothing is lost without a word. */

test('who hangs up while it is looked up takes no place among the streams', async () => {
  await using server = await startTestServer();
  const { events } = server.running;
  const app = Fastify();
  const asked = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  const answered = Promise.withResolvers<void>();
  const known = Promise.withResolvers<Actor>();
  const limiter = { take: () => 0 };
  mountRoutes(app, eventsRoutes(events), {
    authenticate: () => {
      asked.resolve();
      return known.promise;
    },
    attending: () => () => undefined,
    scopeOf: () => {
      throw new Error('this caller has no scope');
    },
    audit: {
      call: () => {
        setImmediate(answered.resolve); // the handler has begun by then
        return null;
      },
      refused: () => undefined,
    },
    bodies: bodyBudget(1024),
    faults: noFaultPoints,
    log: silentLog(),
    limits: { enrolment: limiter, failedAuth: limiter, agent: limiter, address: limiter, token: limiter },
    stopping: new AbortController().signal,
    tls: false,
  });
  app.server.on('connection', (socket: Socket) => socket.once('close', () => setImmediate(ended.resolve)));
  await app.listen({ host: '127.0.0.1', port: 0 });
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1');
  await once(socket, 'connect');
  socket.write('GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n');
  await asked.promise;
  socket.destroy();
  await ended.promise;
  known.resolve({ kind: 'dev', id: 'dev', name: 'dev', role: 'admin', scope: null });
  await answered.promise;
  expect(events.streams.size()).toBe(0);
  await app.close();
});
