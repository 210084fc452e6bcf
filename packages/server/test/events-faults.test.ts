import { once } from 'node:events';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { AegisError } from '@aegis/protocol/errors';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import Fastify from 'fastify';
import { expect, test } from 'vitest';
import { NDJSON } from '../src/events/event-lines.ts';
import { eventsRoutes } from '../src/events/routes.ts';
import { eventsService } from '../src/events/service.ts';
import { nodeScopes } from '../src/nodes/scope-repository.ts';
import { processBus } from '../src/platform/bus.ts';
import type { Actor } from '../src/platform/http/actor.ts';
import { bodyBudget } from '../src/platform/http/body-budget.ts';
import { mountRoutes } from '../src/platform/http/mount.ts';
import { silentLog } from '../src/platform/log.ts';
import type { Line } from './events-support.ts';
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

test('a node that cannot be looked up breaks the stream of who may see it, and nothing is passed over', async () => {
  await using server = await startTestServer();
  const { storage, nodes } = server.running;
  const node = await server.enrol('fra-1', { site: 'fra' });
  const stopping = new AbortController();
  let isAway = false;
  const events = eventsService({
    storage,
    bus: processBus(),
    clock: { now: Date.now },
    log: silentLog(),
    nodes: {
      find: async (id, within) => {
        if (isAway) throw new AegisError('http.unavailable', 'The database is away.');
        return await nodes.show(id, within);
      },
    },
    actorOf: async () => {
      throw new Error('nobody is asked for');
    },
    limits: { most: 10, mostEach: 10, stallMs: 1000, heartbeatMs: 1000 },
    keep: { most: 1000, maxAgeMs: 1e9 },
    stopping: stopping.signal,
  });
  await events.start();
  const told = async (): Promise<Line[]> => {
    const over = new AbortController();
    const texts = await events.read({
      ...{ types: ['alert'], nodes: null, from: 0, follow: false, format: NDJSON, isGood: async () => true },
      ...{ within: nodeScopes('sqlite')('site=fra'), signal: over.signal },
    });
    let text = '';
    try {
      for await (const part of texts) text += part;
    } finally {
      over.abort();
    }
    return linesOf(text);
  };
  const gone = { uid: '01990000-0000-7000-8000-000000000000', name: 'gone-1' };
  await storage.write('test', (tx) =>
    events.publish(
      tx,
      [gone, node].map((of) => ({ type: 'alert.backup.failed', node: { uid: of.uid, name: of.name }, data: {} })),
    ),
  );
  isAway = true;
  await expect(told()).rejects.toMatchObject({ code: 'http.unavailable' });
  isAway = false;
  expect((await told()).map((line) => [line.type, line.node])).toEqual([
    ['alert.backup.failed', 'fra-1'],
    ['end', undefined],
  ]);
  stopping.abort();
});

test('a reader that leaves before the first look leaves no place behind, and is told of none', async () => {
  await using server = await startTestServer({ config: { 'events.max_events': 1000 } });
  const { storage, events } = server.running;
  const publish = (count: number): Promise<void> =>
    storage.write('test', (tx) =>
      events.publish(
        tx,
        Array.from({ length: count }, (_, nth) => ({ type: 'alert.backup.failed', node: null, data: { nth } })),
      ),
    );
  const read = async (more: { from: number | null; follow: boolean; signal: AbortSignal }): Promise<string> => {
    const texts = await events.read({
      ...{ types: ['alert'], nodes: null, within: null, format: NDJSON, isGood: async () => true },
      ...more,
    });
    let text = '';
    for await (const part of texts) text += part;
    return text;
  };
  await publish(1);
  const over = new AbortController();
  const [first] = linesOf(await read({ from: 0, follow: false, signal: over.signal }));
  over.abort();
  const from = Number(first?.id);
  // 0 would be all that is kept, and a gap none that there is.
  for (const begin of [null, from])
    expect(linesOf(await read({ from: begin, follow: true, signal: AbortSignal.abort() }))).toEqual([]);
  for (let batch = 0; batch < 6; batch++) {
    await publish(500);
    await events.retention.turn();
  }
  const later = new AbortController();
  const [gap] = linesOf(await read({ from, follow: false, signal: later.signal }));
  later.abort();
  expect(gap).toEqual({ type: 'gap', reason: 'retention', from: String(from), id: expect.any(String) });
});

const linesOf = (text: string): Line[] =>
  text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Line);
