import { connect as connectSocket } from 'node:net';
import type { SecureMessage } from '@aegis/protocol/channel/messages';
import { sealer } from '@aegis/protocol/channel/sealing';
import { describe, expect, test, vi } from 'vitest';
import { settled } from '../../../test/faults/settled.ts';
import {
  type ChannelNode,
  connectNode,
  type GatewayStage,
  headersOf,
  type KnownNode,
  open,
  requestOf,
  startGateway,
} from './channel-support.ts';

/** Attacks on the channel, as docs/attacks.md names them: each ends the connection or never gets one, reaches no handler, harms no other
 *  node, and is told to the audit (`stage.refused`; channel-server.test.ts has that it is stored). */

const victimOf = ({ nodes }: GatewayStage): KnownNode => {
  const [node] = nodes;
  if (!node) throw new Error('no node');
  return node;
};
/** What reached a handler, and a stage that notes it. */
const startNoting = async (limits: Parameters<typeof startGateway>[0] = {}) => {
  const reached: unknown[] = [];
  const stage = await startGateway({
    ...limits,
    calls: () => (message) => {
      reached.push(message.body);
      return 'answered';
    },
  });
  return { stage, reached };
};
const auditOf = ({ refused }: GatewayStage): string[] => refused.map(({ error }) => error.code);
const flipBit = (base64: string, at: number): string => {
  const bytes = Buffer.from(base64, 'base64');
  const index = at % bytes.length;
  bytes[index] = (bytes[index] ?? 0) ^ (1 << (at % 8));
  return bytes.toString('base64');
};

test('a flipped bit in each field of the handshake', async () => {
  const { stage } = await startNoting();
  await using _stage = stage;
  const node = victimOf(stage);
  const good = requestOf(node).request;
  const altered: Record<keyof typeof good, unknown> = {
    agent_id: 'web-3',
    public_key: flipBit(good.public_key, 9),
    timestamp: good.timestamp ^ 1,
    nonce: flipBit(good.nonce, 17),
    signature: flipBit(good.signature, 41),
    versions: [1, 3],
    ephemeral_key: flipBit(good.ephemeral_key, 5),
  };
  for (const [field, value] of Object.entries(altered)) {
    const headers = headersOf(node);
    if (field === 'agent_id') headers['x-agent-id'] = 'web-3';
    if (field === 'public_key') headers['x-agent-public-key'] = String(value);
    const raw = await open(stage.url, headers);
    raw.ws.send(JSON.stringify({ ...good, [field]: value }));
    expect([field, JSON.parse(await raw.next())]).toMatchObject([
      field,
      { success: false, code: 'access.unauthenticated' },
    ]);
    expect((await raw.closed).code).toBe(4003);
  }
  expect(auditOf(stage)).toEqual(Object.keys(altered).map(() => 'access.unauthenticated'));
  expect(stage.gateway.connections.count()).toBe(0);
});

test('a flipped bit in each field of a message', async () => {
  const { stage, reached } = await startNoting();
  await using _stage = stage;
  const flips: Record<keyof SecureMessage, (good: SecureMessage) => unknown> = {
    id: () => 'b',
    type: () => 'request',
    channel: () => 'logr',
    payload: ({ payload }) => flipBit(payload, 3),
    nonce: ({ nonce }) => flipBit(nonce, 11),
    signature: () => Buffer.alloc(64, 1).toString('base64'),
    timestamp: ({ timestamp }) => timestamp ^ 1,
    seq: ({ seq }) => seq ^ 1,
    epoch: ({ epoch }) => epoch ^ 1,
  };
  for (const [field, flip] of Object.entries(flips)) {
    if (field === 'signature') continue; // where none is asked for it says nothing: 'a forged signature of a message' below
    const node = await connectNode(stage, victimOf(stage));
    const good = JSON.parse(node.seal({ id: 'a', type: 'event', channel: 'logs' }, '1')) as SecureMessage;
    node.ws.send(JSON.stringify({ ...good, [field]: flip(good) }));
    expect([field, (await node.closed).code]).toEqual([field, 4004]);
  }
  expect(auditOf(stage)).toHaveLength(Object.keys(flips).length - 1);
  for (const code of auditOf(stage)) expect(code).toMatch(/^channel\.bad_(?:seal|sequence)$/);
  expect(reached).toEqual([]);
});

test('a forged signature of a message', async () => {
  const { stage, reached } = await startNoting({ limits: { signMessages: true } });
  await using _stage = stage;
  const node = await connectNode(stage, victimOf(stage));
  const good = JSON.parse(node.seal({ id: 'a', type: 'event', channel: 'logs' }, '1')) as SecureMessage;
  node.ws.send(JSON.stringify({ ...good, signature: flipBit(good.signature, 20) }));
  expect((await node.closed).code).toBe(4004);
  expect([auditOf(stage), reached]).toEqual([['channel.bad_signature'], []]);
});

describe('messages that are authentic, and not in their place', () => {
  const event = (id: string) => ({ id, type: 'event', channel: 'logs' }) as const;
  const cases: Record<string, [(node: ChannelNode) => string[], string]> = {
    'swapped with the next': [
      ({ seal }) => [seal(event('a'), '1'), seal(event('b'), '2')].reverse(),
      'channel.bad_sequence',
    ],
    'one skipped': [
      ({ seal }) => {
        seal(event('a'), '1');
        return [seal(event('b'), '2')];
      },
      'channel.bad_sequence',
    ],
    'an older one, long after': [
      ({ seal }) => {
        const frames = Array.from({ length: 30 }, (_, nth) => seal(event(`m-${nth}`), `${nth}`));
        return [...frames, ...frames.slice(0, 1)];
      },
      'channel.bad_sequence',
    ],
    'sealed for the other direction': [
      ({ keys }) => [
        sealer({
          key: Buffer.from(keys.serverToNode),
          direction: 'server to node',
          rotation: { messages: 100, ms: 1e9 },
          clock: { now: () => Date.now(), monotonic: () => 0 },
          signing: null,
        }).seal(event('a'), '1'),
      ],
      'channel.bad_sequence', // its own numbers begin anew, whatever key it is under
    ],
  };
  test.each(Object.entries(cases))('%s', async (_, [frames, code]) => {
    const { stage, reached } = await startNoting();
    await using _stage = stage;
    const node = await connectNode(stage, victimOf(stage));
    const sent = frames(node);
    for (const frame of sent) node.ws.send(frame);
    expect((await node.closed).code).toBe(4004);
    expect(auditOf(stage)).toEqual([code]);
    expect(reached.length).toBeLessThan(sent.length);
  });
});

test("what the server said in the place of the node's first message", async () => {
  const { stage, reached } = await startNoting();
  await using _stage = stage;
  const node = await connectNode(stage, victimOf(stage), { hello: false });
  const reflected = sealer({
    key: Buffer.from(node.keys.serverToNode),
    direction: 'server to node',
    rotation: { messages: 100, ms: 1e9 },
    clock: { now: () => Date.now(), monotonic: () => 0 },
    signing: null,
  });
  node.ws.send(reflected.seal({ id: 'a', type: 'event', channel: 'hello' }, '{"version":"1"}'));
  expect((await node.closed).code).toBe(4004);
  expect([auditOf(stage), reached, stage.gateway.connections.count()]).toEqual([['channel.bad_seal'], [], 0]);
});

test('a handshake that somebody captured, sent again and again: the node stays, and is not blamed', async () => {
  const { stage } = await startNoting();
  await using _stage = stage;
  const node = victimOf(stage);
  const mine = await connectNode(stage, node);
  await mine.ask('commands', 1);
  const { request } = requestOf(node);
  for (let times = 0; times < 3; times++) {
    const thief = await open(stage.url, headersOf(node));
    thief.ws.send(JSON.stringify(request));
    expect(JSON.parse(await thief.next())).toMatchObject({ success: true });
    thief.ws.send(mine.seal({ id: 'x', type: 'event', channel: 'hello' }, '{"version":"1"}'));
    expect((await thief.closed).code).toBe(4004);
    // What was spoilt was a number of the node's own: it connects anew, as after any cut.
    expect(stage.gateway.connections.count()).toBe(1);
  }
  expect(auditOf(stage)).toHaveLength(3);
  expect(stage.refused.map((one) => one.node)).toEqual([null, null, null]);
});

/** Sockets from an address of their own that ask for a channel and say nothing more, when each was answered. */
const floodOf = async (stage: GatewayStage, count: number) => {
  const { port } = new URL(stage.url);
  const upgrade = Object.entries(headersOf(victimOf(stage)))
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('');
  const head = `GET /ws/agent HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${Buffer.alloc(16).toString('base64')}\r\n${upgrade}\r\n`;
  const statuses: string[] = [];
  const sockets = Array.from({ length: count }, () => {
    const socket = connectSocket({ port: Number(port), host: '127.0.0.1', localAddress: '127.0.0.9' });
    socket.on('error', () => undefined);
    socket.once('data', (data) => statuses.push(data.toString('latin1').slice(9, 12)));
    socket.write(head);
    return socket;
  });
  await vi.waitFor(() => expect(statuses).toHaveLength(count), { timeout: 20_000 });
  return { sockets, statuses };
};

describe('floods', () => {
  test('a handshake that is too large, in one frame or in drops', async () => {
    const { stage } = await startNoting();
    await using _stage = stage;
    const whole = await open(stage.url, headersOf(victimOf(stage)));
    whole.ws.send('x'.repeat(100_000));
    await whole.closed;
    const drops = await open(stage.url, headersOf(victimOf(stage)));
    const dripping = setInterval(() => drops.ws.send('x'.repeat(1000), { fin: false }), 1);
    await drops.closed;
    clearInterval(dripping);
    expect(auditOf(stage)).toEqual(['channel.bad_frame', 'channel.bad_frame']);
  });

  test('a message that is too large', async () => {
    const { stage, reached } = await startNoting();
    await using _stage = stage;
    const node = await connectNode(stage, victimOf(stage));
    await node.ask('commands', 1);
    node.ws.send('x'.repeat(3 * 1024 * 1024));
    await node.closed;
    expect([auditOf(stage), reached]).toEqual([['channel.bad_frame'], [1]]);
  });

  test('pings, before and after the handshake', async () => {
    const { stage } = await startNoting();
    await using _stage = stage;
    const stranger = await open(stage.url, headersOf(victimOf(stage)));
    const node = await connectNode(stage, victimOf(stage));
    await node.ask('commands', 1);
    for (const { ws } of [stranger, node]) for (let nth = 0; nth < 50; nth++) ws.ping();
    await Promise.all([stranger.closed, node.closed]);
    expect(auditOf(stage)).toEqual(['channel.bad_frame', 'channel.bad_frame']);
    expect(stage.refused.map((one) => one.node?.uid ?? null).sort()).toEqual([null, 'web-1-uid'].sort());
  });

  test('slow-loris: a handshake in drops that never ends', async () => {
    const { stage } = await startNoting({ limits: { handshakeMs: 200 } });
    await using _stage = stage;
    const raw = await open(stage.url, headersOf(victimOf(stage)));
    const dripping = setInterval(() => raw.ws.send(' ', { fin: false }), 20);
    const { code } = await raw.closed;
    clearInterval(dripping);
    expect([code, auditOf(stage)]).toEqual([4003, ['channel.bad_handshake']]);
  });

  test('sockets that never authenticate, and all the room there is at once: others find a place', async () => {
    const { stage } = await startNoting({ limits: { maxUnauthenticated: 1000, maxUnauthenticatedEach: 1000 } });
    await using _stage = stage;
    const { sockets, statuses } = await floodOf(stage, 1000);
    const counted = (status: string) => statuses.filter((one) => one === status).length;
    expect([counted('101'), counted('503')]).toEqual([125, 875]); // a quarter of the 500 that may shake hands at once
    const other = await connectNode(stage, victimOf(stage));
    expect(await other.ask('commands', 1)).toEqual({ result: 'answered' });
    for (const socket of sockets) socket.destroy();
  });

  test('sockets that go and come, and never authenticate: their address waits, and the others do not', async () => {
    const clock = { ms: 0, now: () => Date.now(), monotonic: () => clock.ms };
    const { stage } = await startNoting({ clock });
    await using _stage = stage;
    const tried: string[] = [];
    for (let round = 0; round < 30; round++) {
      const { sockets, statuses } = await floodOf(stage, 20);
      tried.push(...statuses);
      for (const socket of sockets) socket.destroy();
      await settled(() => expect(stage.gateway.waiting()).toBe(0));
    }
    const counted = (status: string) => tried.filter((one) => one === status).length;
    expect([counted('101'), counted('429')]).toEqual([500, 100]);
    const node = await connectNode(stage, victimOf(stage));
    expect(await node.ask('commands', 1)).toEqual({ result: 'answered' });
    expect(new Set(auditOf(stage))).toEqual(new Set(['http.rate_limited']));
    clock.ms += 1000;
    const { sockets, statuses } = await floodOf(stage, 20);
    expect(statuses).toEqual(Array(20).fill('101'));
    for (const socket of sockets) socket.destroy();
  });

  test('sockets that never authenticate, from one address: others come in, and who is there stays', async () => {
    const { stage } = await startNoting({ limits: { maxUnauthenticated: 1000, maxUnauthenticatedEach: 50 } });
    await using _stage = stage;
    const mine = await connectNode(stage, victimOf(stage));
    await mine.ask('commands', 1);
    const { sockets: flood, statuses: answers } = await floodOf(stage, 2000);
    expect(answers.filter((status) => status === '101')).toHaveLength(50);
    expect(answers.filter((status) => status === '429')).toHaveLength(1950);
    expect(await mine.ask('commands', 2)).toEqual({ result: 'answered' });
    const other = await connectNode(stage, stage.nodes[1]);
    expect(await other.ask('commands', 3)).toEqual({ result: 'answered' });
    expect(new Set(auditOf(stage))).toEqual(new Set(['http.rate_limited']));
    for (const socket of flood) socket.destroy();
  });
});

test('a web page that brings the cookies of whoever looks at it', async () => {
  const { stage } = await startNoting();
  await using _stage = stage;
  const headers = { ...headersOf(victimOf(stage)), origin: 'https://evil.example', cookie: 'session=1' };
  await expect(open(stage.url, headers)).rejects.toThrow(/^403 /);
  expect(auditOf(stage)).toEqual(['access.forbidden']);
});

test('a half-open connection is given up, and its place is free', async () => {
  const clock = { ms: 0, now: () => Date.now() + clock.ms, monotonic: () => performance.now() + clock.ms };
  const { stage } = await startNoting({ clock, limits: { heartbeatMs: 1000 } });
  await using _stage = stage;
  const node = await connectNode(stage, victimOf(stage));
  await node.ask('commands', 1);
  clock.ms += 2500;
  stage.gateway.connections.tick();
  expect(stage.gateway.connections.count()).toBe(0);
  expect((await node.closed).code).toBe(4005);
});
