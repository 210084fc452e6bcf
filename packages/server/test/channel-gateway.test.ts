import { connect as connectSocket } from 'node:net';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import type { SecureMessage } from '@aegis/protocol/channel/messages';
import { AegisError } from '@aegis/protocol/errors';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import { nodeDesired } from '@aegis/protocol/nodes/endpoints';
import { describe, expect, test } from 'vitest';
import { settled } from '../../../test/faults/settled.ts';
import { channelCalls } from '../src/channel/calls.ts';
import { route } from '../src/platform/http/route.ts';
import {
  connectNode,
  type GatewayStage,
  headersOf,
  type KnownNode,
  open,
  requestOf,
  startGateway,
} from './channel-support.ts';

/** The gateway against nodes, and what calls itself one. */

const first = ({ nodes }: GatewayStage): KnownNode => {
  const [node] = nodes;
  if (!node) throw new Error('no node');
  return node;
};
const echo = () => (channel: string) =>
  channel === 'commands' ? ({ body }: { body: unknown }) => ({ echo: body }) : null;

test('a node connects, says hello, asks and is answered; an event reaches it', async () => {
  await using stage = await startGateway({ calls: echo() });
  const node = await connectNode(stage, first(stage));
  expect(await node.ask('commands', { call: 'x' })).toEqual({ result: { echo: { call: 'x' } } });
  expect(await node.ask('logs', {})).toEqual({
    error: { code: 'channel.no_handler', message: "Nobody listens on the channel 'logs' here." },
  });
  const here = stage.gateway.connections.of('web-1-uid');
  expect(here).toMatchObject({ name: 'web-1', remoteAddress: '127.0.0.1', sessionToken: node.answer.session_token });
  await here?.notify('artifacts', { desired: 3 });
  expect(await node.read()).toMatchObject({ type: 'event', channel: 'artifacts', body: { desired: 3 } });
  node.ws.close();
  await settled(() => expect(stage.gateway.connections.count()).toBe(0));
  expect(stage.refused).toEqual([]);
});

test('messages keep their order over many keys', async () => {
  await using stage = await startGateway({ calls: echo(), limits: { rotation: { messages: 3, ms: 3_600_000 } } });
  const node = await connectNode(stage, first(stage));
  for (let nth = 0; nth < 20; nth++) expect(await node.ask('commands', nth)).toEqual({ result: { echo: nth } });
});

test('a call is a request: what comes as an event runs nothing, however often it comes', async () => {
  let handled = 0;
  const desired = route(nodeDesired, () => ({ directives: [], revision: ++handled, trust_version: 1 }));
  const on = { faults: noFaultPoints, refused: () => undefined, newId: () => 'r' };
  const calls = channelCalls([desired], { ...on, stopping: new AbortController().signal });
  await using stage = await startGateway({ calls });
  const node = await connectNode(stage, first(stage));
  for (let nth = 0; nth < 300; nth++) node.say('artifacts', { call: 'nodeDesired' });
  expect(await node.ask('artifacts', { call: 'nodeDesired' })).toMatchObject({ result: { revision: 1 } });
  expect(handled).toBe(1);
});

describe('before there is a WebSocket', () => {
  const refusal = async (change: Record<string, string | undefined>, limits = {}): Promise<string> => {
    await using stage = await startGateway({ limits });
    const headers = Object.fromEntries(
      Object.entries({ ...headersOf(first(stage)), ...change }).filter(([, value]) => value !== undefined),
    ) as Record<string, string>;
    return await open(stage.url, headers).then(
      () => 'connected',
      (error: Error) => error.message,
    );
  };
  test('a web page, whatever cookies it sends', async () => {
    expect(await refusal({ origin: 'https://evil.example', cookie: 'session=1' })).toMatch(
      /^403 .*"access.forbidden".*Web pages may not connect/,
    );
  });
  test('without a name, without a key', async () => {
    expect(await refusal({ 'x-agent-id': undefined })).toMatch(/^400 .*X-Agent-ID/);
    expect(await refusal({ 'x-agent-public-key': undefined })).toMatch(/^400 .*X-Agent-Public-Key/);
  });
  test('when there are as many as the server takes', async () => {
    expect(await refusal({}, { maxConnections: 0 })).toMatch(/^503 .*as many nodes as it takes/);
    expect(await refusal({}, { maxUnauthenticated: 0 })).toMatch(/^503 .*Too many nodes connect/);
    expect(await refusal({}, { maxUnauthenticatedEach: 0 })).toMatch(/^429 .*from this address/);
  });
  test('while the server stops', async () => {
    await using stage = await startGateway();
    stage.stop();
    await expect(open(stage.url, headersOf(first(stage)))).rejects.toThrow(/^503 .*is stopping/);
  });
});

describe('a handshake that is not good', () => {
  const tried = async (
    act: (stage: GatewayStage, node: KnownNode) => { headers?: Record<string, string>; frame: unknown },
  ) => {
    await using stage = await startGateway();
    const node = first(stage);
    const { headers = headersOf(node), frame } = act(stage, node);
    const raw = await open(stage.url, headers);
    raw.ws.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
    const answer = JSON.parse(await raw.next()) as { success: boolean; code: string };
    const { code } = await raw.closed;
    return {
      success: answer.success,
      code: answer.code,
      close: code,
      audited: stage.refused.map((one) => one.error.code),
    };
  };
  const refusedAs = (code: string) => ({ success: false, code, close: 4003, audited: [code] });
  const NOBODY = 'access.unauthenticated';

  test('a key that this server does not know', async () => {
    const stranger = { uid: 'x', name: 'web-1', keys: generateKeyPair() };
    expect(await tried(() => ({ headers: headersOf(stranger), frame: requestOf(stranger).request }))).toEqual(
      refusedAs(NOBODY),
    );
  });
  test('a node that is retired: told to who holds its key, and to nobody else', async () => {
    const retired = new AegisError('nodes.retired', 'It is retired.');
    const gone = { uid: 'gone-uid', name: 'gone', keys: generateKeyPair(), refused: retired };
    const stranger = { ...gone, keys: generateKeyPair() };
    for (const [as, code] of [
      [gone, 'nodes.retired'],
      [stranger, NOBODY],
    ] as const)
      expect(
        await tried((stage) => {
          stage.nodes.push(gone);
          return { headers: headersOf(as), frame: requestOf(as).request };
        }),
      ).toEqual(refusedAs(code));
  });
  test("another node's name, with a key of one's own", async () => {
    expect(
      await tried((_stage, node) => {
        const mixed = { ...node, name: 'web-2' };
        return { headers: headersOf(mixed), frame: requestOf(mixed).request };
      }),
    ).toEqual(refusedAs(NOBODY));
  });
  test("another node's public key, shown and not held", async () => {
    expect(
      await tried((stage, node) => {
        const victim = stage.nodes[1] ?? node;
        const { request } = requestOf({ ...victim, keys: { ...victim.keys, privateKey: node.keys.privateKey } });
        return { headers: headersOf(victim), frame: request };
      }),
    ).toEqual(refusedAs(NOBODY));
  });
  test('headers and frame that name two nodes', async () => {
    expect(
      await tried((stage, node) => ({
        headers: headersOf(stage.nodes[1] ?? node),
        frame: requestOf(node).request,
      })),
    ).toEqual(refusedAs('channel.bad_handshake'));
  });
  test('for another fleet', async () => {
    expect(await tried((_stage, node) => ({ frame: requestOf(node, {}, 'another').request }))).toEqual(
      refusedAs(NOBODY),
    );
  });
  test('a clock that is an hour off', async () => {
    expect(
      await tried((_stage, node) => ({
        frame: requestOf(node, { timestamp: Math.floor(Date.now() / 1000) - 3600 }).request,
      })),
    ).toEqual(refusedAs('nodes.clock_skew'));
  });
  test('no version in common', async () => {
    expect(await tried((_stage, node) => ({ frame: requestOf(node, { versions: [7, 9] }).request }))).toEqual(
      refusedAs('channel.unsupported_version'),
    );
  });
  test('versions taken out on the way', async () => {
    expect(
      await tried((_stage, node) => ({
        frame: { ...requestOf(node, { versions: [2, 1] }).request, versions: [1] },
      })),
    ).toEqual(refusedAs(NOBODY));
  });
  test('a key that gives the secret away', async () => {
    expect(
      await tried((_stage, node) => ({
        frame: requestOf(node, { ephemeral_key: Buffer.alloc(32).toString('base64') }).request,
      })),
    ).toEqual(refusedAs('channel.bad_handshake'));
  });
  test.each(['', 'null', '{}', '[]', '{"agent_id":1}', 'x'.repeat(10_000)])(
    'no request at all: %.20s',
    async (frame) => {
      expect(await tried(() => ({ frame }))).toEqual(refusedAs('channel.bad_frame'));
    },
  );
  test('silence', async () => {
    await using stage = await startGateway({ limits: { handshakeMs: 50 } });
    const raw = await open(stage.url, headersOf(first(stage)));
    expect(JSON.parse(await raw.next())).toMatchObject({ success: false, code: 'channel.bad_handshake' });
    expect((await raw.closed).code).toBe(4003);
  });
  test('a second frame before the first is answered', async () => {
    await using stage = await startGateway();
    const raw = await open(stage.url, headersOf(first(stage)));
    const frame = JSON.stringify(requestOf(first(stage)).request);
    raw.ws.send(frame);
    raw.ws.send(frame);
    expect((await raw.closed).code).toBe(4004);
  });
});

describe('a handshake that somebody captured', () => {
  test('sent again, it puts nobody out, and opens nothing', async () => {
    await using stage = await startGateway({ calls: echo() });
    const node = first(stage);
    const { request } = requestOf(node);
    const mine = await connectNode(stage, node);
    await mine.ask('commands', 1);
    const thief = await open(stage.url, headersOf(node));
    thief.ws.send(JSON.stringify(request));
    expect(JSON.parse(await thief.next())).toMatchObject({ success: true });
    expect(await mine.ask('commands', 2)).toEqual({ result: { echo: 2 } });
    const other = await connectNode(stage, stage.nodes[1]);
    thief.ws.send(other.seal({ id: 'x', type: 'event', channel: 'hello' }, '{"version":"1"}'));
    expect((await thief.closed).code).toBe(4004);
    expect(await mine.ask('commands', 3)).toEqual({ result: { echo: 3 } });
  });
});

test('the newest of two connections of a node stays, once it has shown its keys', async () => {
  await using stage = await startGateway({ calls: echo() });
  const older = await connectNode(stage, first(stage));
  await older.ask('commands', 1);
  const newer = await connectNode(stage, first(stage), { hello: false });
  expect(await older.ask('commands', 2)).toEqual({ result: { echo: 2 } });
  newer.say('hello', { version: '0.1.0' });
  expect(await newer.ask('commands', 3)).toEqual({ result: { echo: 3 } });
  expect((await older.closed).code).toBe(4001);
  expect(stage.gateway.connections.of('web-1-uid')?.sessionToken).toBe(newer.answer.session_token);
  expect(stage.gateway.connections.count()).toBe(1);
});

describe('messages that are not good end the connection, and are told', () => {
  const cases: Record<string, (node: Awaited<ReturnType<typeof connectNode>>) => (string | Buffer)[]> = {
    'sent twice': ({ seal }) => {
      const frame = seal({ id: 'a', type: 'event', channel: 'commands' }, '1');
      return [frame, frame];
    },
    'left out': ({ seal }) => {
      seal({ id: 'a', type: 'event', channel: 'commands' }, '1');
      return [seal({ id: 'b', type: 'event', channel: 'commands' }, '2')];
    },
    altered: ({ seal }) => {
      const message = JSON.parse(seal({ id: 'a', type: 'event', channel: 'commands' }, '1')) as SecureMessage;
      return [JSON.stringify({ ...message, channel: 'logs' })];
    },
    'no message': () => ['hello'],
    'bytes instead of text': () => [Buffer.from('x')],
  };
  test.each(Object.entries(cases))('%s', async (_, frames) => {
    await using stage = await startGateway({ calls: echo() });
    const node = await connectNode(stage, first(stage));
    await node.ask('commands', 1);
    for (const frame of frames(node)) node.ws.send(frame);
    expect((await node.closed).code).toBe(4004);
    await settled(() => expect(stage.gateway.connections.count()).toBe(0));
  });
  test("what the server said, sent back to it, and another connection's", async () => {
    await using stage = await startGateway({ calls: echo() });
    const [one, two] = [await connectNode(stage, stage.nodes[0]), await connectNode(stage, stage.nodes[1])];
    await settled(() => expect(stage.gateway.connections.count()).toBe(2));
    await stage.gateway.connections.of('web-1-uid')?.notify('commands', 1);
    one.ws.send(await one.next());
    two.ws.send(one.seal({ id: 'a', type: 'event', channel: 'commands' }, '1'));
    expect([(await one.closed).code, (await two.closed).code]).toEqual([4004, 4004]);
    expect(stage.refused.map(({ error }) => error.code).sort()).toEqual(
      ['channel.bad_seal', 'channel.bad_sequence'].sort(),
    );
  });
  test('anything before the hello', async () => {
    await using stage = await startGateway({ calls: echo() });
    const node = await connectNode(stage, first(stage), { hello: false });
    node.say('commands', 1, 'request');
    expect((await node.closed).code).toBe(4004);
    expect(stage.gateway.connections.count()).toBe(0);
  });
});

test('unsigned messages are not taken where they are to be signed', async () => {
  await using stage = await startGateway({ calls: echo(), limits: { signMessages: true } });
  const node = await connectNode(stage, first(stage));
  expect(await node.ask('commands', 1)).toEqual({ result: { echo: 1 } });
  const message = JSON.parse(node.seal({ id: 'a', type: 'event', channel: 'commands' }, '1')) as SecureMessage;
  node.ws.send(JSON.stringify({ ...message, signature: '' }));
  expect((await node.closed).code).toBe(4004);
  expect(stage.refused.map(({ error }) => error.code)).toEqual(['channel.bad_signature']);
});

test('a session ends when its time is over, and a silent one too', async () => {
  const clock = { ms: 0, now: () => Date.now() + clock.ms, monotonic: () => performance.now() + clock.ms };
  await using stage = await startGateway({ clock, limits: { sessionMs: 100_000, heartbeatMs: 10_000 } });
  const [one, two] = [await connectNode(stage, stage.nodes[0]), await connectNode(stage, stage.nodes[1])];
  await settled(() => expect(stage.gateway.connections.count()).toBe(2));
  clock.ms += 15_000;
  stage.gateway.connections.tick();
  expect(await one.read()).toMatchObject({ channel: 'heartbeat' });
  one.say('heartbeat', {});
  await settled(() => {
    clock.ms += 1000;
    stage.gateway.connections.tick();
    expect(stage.gateway.connections.count()).toBe(1);
  });
  expect((await two.closed).code).toBe(4005);
  expect(stage.gateway.connections.of('web-1-uid')).not.toBeNull();
  clock.ms += 100_000;
  stage.gateway.connections.tick();
  expect((await one.closed).code).toBe(4002);
});

test('a server that stops lets answers under way out first', async () => {
  const gate = Promise.withResolvers<void>();
  const stage = await startGateway({
    calls:
      (_, { signal }) =>
      () =>
        new Promise((resolve) => signal.addEventListener('abort', () => gate.promise.then(() => resolve('done')))),
  });
  const node = await connectNode(stage, first(stage));
  const asked = node.ask('commands', 1);
  await settled(() => expect(stage.gateway.connections.count()).toBe(1));
  const stopped = stage[Symbol.asyncDispose]();
  gate.resolve();
  expect(await asked).toEqual({ result: 'done' });
  expect((await node.closed).code).toBe(1012);
  await stopped;
});

test('a node that is none of ours any more is cut off', async () => {
  await using stage = await startGateway();
  const node = await connectNode(stage, first(stage));
  await settled(() => expect(stage.gateway.connections.count()).toBe(1));
  stage.gateway.recheck('web-1-uid');
  stage.gateway.recheck('nobody');
  expect(await node.ask('logs', 1)).toMatchObject({ error: { code: 'channel.no_handler' } });
  stage.nodes.shift();
  stage.gateway.recheck('web-1-uid');
  expect((await node.closed).code).toBe(4006);
});

test('a node that was deactivated between its handshake and its hello is cut off', async () => {
  await using stage = await startGateway();
  const node = first(stage);
  const mine = await connectNode(stage, node, { hello: false });
  node.refused = new AegisError('nodes.deactivated', 'It is deactivated.');
  stage.gateway.recheck(node.uid);
  mine.say('hello', { version: '0.1.0' });
  expect((await mine.closed).code).toBe(4006);
});

test('where it is not known which nodes changed, all are looked up, a few at a time', async () => {
  const names = Array.from({ length: 40 }, (_, nth) => `web-${nth}`);
  const known = names.map((name) => ({ uid: `${name}-uid`, name, keys: generateKeyPair() }));
  await using stage = await startGateway({ nodes: known });
  const connected = await Promise.all(stage.nodes.map((node) => connectNode(stage, node)));
  await settled(() => expect(stage.gateway.connections.count()).toBe(40));
  stage.looked.most = 0;
  const gone = stage.nodes.splice(0, 20);
  stage.gateway.recheck(null);
  const [kept] = stage.nodes.splice(0, 1); // while they are looked up: said again, and done again
  stage.gateway.recheck(null);
  const ended = await Promise.all(connected.slice(0, gone.length + 1).map(({ closed }) => closed));
  expect(new Set(ended.map(({ code }) => code))).toEqual(new Set([4006]));
  expect(kept?.name).toBe('web-20');
  expect(stage.gateway.connections.count()).toBe(19);
  expect(stage.looked.most).toBeLessThanOrEqual(8);
});

test('sockets that open and say nothing make room again when they go', async () => {
  await using stage = await startGateway({ limits: { maxUnauthenticated: 3 } });
  const raws = await Promise.all([1, 2, 3].map(() => open(stage.url, headersOf(first(stage)))));
  await expect(open(stage.url, headersOf(first(stage)))).rejects.toThrow(/503/);
  for (const { ws } of raws) ws.terminate();
  await settled(async () => {
    const node = await connectNode(stage, first(stage));
    expect(await node.ask('logs', 1)).toMatchObject({ error: { code: 'channel.no_handler' } });
  });
  const { port } = new URL(stage.url);
  const socket = connectSocket(Number(port), '127.0.0.1');
  socket.write('GET /ws/agent HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n');
  const answer = await new Promise<string>((resolve) => socket.once('data', (data) => resolve(data.toString('utf8'))));
  expect(answer).toMatch(/^HTTP\/1.1 400 /);
});
