import { getEventListeners, once } from 'node:events';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { endpoint } from '@aegis/protocol/endpoint';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import Fastify from 'fastify';
import { expect, test } from 'vitest';
import { silentLog } from '../log.ts';
import type { NodeActor } from './actor.ts';
import { bodyBudget } from './body-budget.ts';
import { mountRoutes } from './mount.ts';
import { type RouteContext, route } from './route.ts';

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
const push = endpoint({ ...poll, id: 'push', method: 'POST', path: '/push', rawBody: true });
const limiter = { take: () => 0 };
const REST = {
  scopeOf: () => {
    throw new Error('nodes have no scope');
  },
  audit: { call: () => null, refused: () => undefined },
  bodies: bodyBudget(1024 * 1024),
  faults: noFaultPoints,
  log: silentLog(),
  limits: { enrolment: limiter, failedAuth: limiter, agent: limiter, address: limiter, token: limiter },
  stopping: new AbortController().signal,
  tls: false,
};

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
    ...REST,
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

test('a body that is worked on counts until that is over, also when its sender has hung up', async () => {
  const app = Fastify();
  const bodies = bodyBudget(1_000_000);
  const begun = Promise.withResolvers<void>();
  const done = Promise.withResolvers<undefined>();
  const ended = Promise.withResolvers<void>();
  const handler = (): Promise<undefined> => {
    begun.resolve();
    return done.promise;
  };
  mountRoutes(app, [route(push, handler)], {
    ...REST,
    bodies,
    authenticate: async () => node,
    attending: () => () => undefined,
  });
  app.server.on('connection', (socket: Socket) => socket.once('close', () => setImmediate(ended.resolve)));
  await app.listen({ host: '127.0.0.1', port: 0 });
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1');
  const headers = 'Host: localhost\r\nContent-Type: application/octet-stream\r\nContent-Length: 900000\r\n\r\n';
  socket.write(`POST /push HTTP/1.1\r\n${headers}`);
  socket.write(Buffer.alloc(900_000));
  await begun.promise;
  socket.destroy();
  await ended.promise;
  expect(() => bodies.lease('other').hold(200_000)).toThrow(/busy/);
  done.resolve(undefined);
  await app.close();
  expect(() => bodies.lease('other').hold(1_000_000)).not.toThrow();
});

test('a signal that is asked for when the caller has hung up leaves nothing on the one of the stop', async () => {
  const app = Fastify();
  const stopping = new AbortController();
  const begun = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  const asked = Promise.withResolvers<{ aborted: boolean; listeners: number }>();
  const handler = async (context: RouteContext<typeof poll>): Promise<undefined> => {
    begun.resolve();
    if (!context.reply.raw.closed) await once(context.reply.raw, 'close');
    asked.resolve({ aborted: context.signal.aborted, listeners: getEventListeners(stopping.signal, 'abort').length });
  };
  mountRoutes(app, [route(poll, handler)], {
    ...REST,
    stopping: stopping.signal,
    authenticate: async () => node,
    attending: () => () => undefined,
  });
  app.server.on('connection', (socket: Socket) => socket.once('close', ended.resolve));
  await app.listen({ host: '127.0.0.1', port: 0 });
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1');
  socket.write('GET /poll HTTP/1.1\r\nHost: localhost\r\n\r\n');
  await begun.promise;
  socket.destroy();
  expect(await asked.promise).toEqual({ aborted: true, listeners: 0 });
  await ended.promise;
  await app.close();
});
