import { once } from 'node:events';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { endpoint } from '@aegis/protocol/endpoint';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import Fastify from 'fastify';
import { expect, test } from 'vitest';
import { silentLog } from '../log.ts';
import type { NodeActor } from './actor.ts';
import { mountRoutes } from './mount.ts';
import { route } from './route.ts';

const node: NodeActor = { kind: 'node', uid: 'u', name: 'n', keyId: null, keyless: true };
const poll = endpoint({
  id: 'poll',
  door: 'agent-svc',
  method: 'GET',
  path: '/poll',
  caller: 'node',
  tag: 't',
  summary: 's',
});
const limiter = { take: () => 0 };

test('a node that hangs up while it is looked up does not count as there for ever', async () => {
  const app = Fastify();
  const asked = Promise.withResolvers<void>();
  const known = Promise.withResolvers<NodeActor>();
  const ended = Promise.withResolvers<void>();
  let attending = 0;
  mountRoutes(app, [route(poll, () => undefined)], {
    authenticate: () => {
      asked.resolve();
      return known.promise;
    },
    attending: () => {
      attending++;
      return () => {
        attending--;
      };
    },
    faults: noFaultPoints,
    log: silentLog(),
    limits: { enrolment: limiter, failedAuth: limiter },
    stopping: new AbortController().signal,
    tls: false,
  });
  app.server.on('connection', (socket: Socket) => socket.once('close', () => setImmediate(ended.resolve)));
  await app.listen({ host: '127.0.0.1', port: 0 });
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1');
  await once(socket, 'connect');
  socket.write('GET /poll HTTP/1.1\r\nHost: localhost\r\n\r\n');
  await asked.promise;
  socket.destroy();
  await ended.promise;
  known.resolve(node);
  await new Promise((resolve) => setImmediate(resolve));
  await app.close();
  expect(attending).toBe(0);
});
