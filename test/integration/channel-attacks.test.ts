import type { AddressInfo } from 'node:net';
import type { AuthenticationResponse, SecureMessage } from '@aegis/protocol/channel/messages';
import { describe, expect, test } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { type Link, openLink } from '../../packages/daemon/src/channel/link.ts';
import { linkLoop } from '../../packages/daemon/src/channel/link-loop.ts';
import { createLog } from '../../packages/daemon/src/platform/log.ts';
import { FLEET, type GatewayStage, startGateway } from '../../packages/server/test/channel-support.ts';
import { settled } from '../faults/settled.ts';

/** Attacks on the node's end of the channel by who sits between it and its server, or in the server's place: the real link, the real gateway,
 *  and frames changed on the way. What the node is not sure of it does not obey, and it says why its channel ended. */

type Way = 'to server' | 'to node';
/** What arrives for the nth frame on that way. */
type Alter = (frame: string, way: Way, nth: number) => string[];

interface Between extends AsyncDisposable {
  url: string;
  /** Frames that the node sent. */
  said(): number;
}
const startBetween = async (target: string, alter: Alter): Promise<Between> => {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1', perMessageDeflate: false });
  let said = 0;
  server.on('connection', (near, request) => {
    const { 'x-agent-id': id, 'x-agent-public-key': key } = request.headers;
    const far = new WebSocket(target, { headers: { 'x-agent-id': `${id}`, 'x-agent-public-key': `${key}` } });
    const counts = { 'to server': 0, 'to node': 0 };
    const waiting: string[] = [];
    const carry = (frame: string, way: Way): void => {
      for (const one of alter(frame, way, counts[way]++)) {
        if (way === 'to node') near.send(one);
        else if (far.readyState === WebSocket.OPEN) far.send(one);
        else waiting.push(one);
      }
    };
    far.on('open', () => {
      for (const one of waiting.splice(0)) far.send(one);
    });
    near.on('message', (data: Buffer) => {
      said++;
      carry(data.toString('utf8'), 'to server');
    });
    far.on('message', (data: Buffer) => carry(data.toString('utf8'), 'to node'));
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      one.on('close', () => other.terminate());
      one.on('error', () => undefined);
    }
  });
  await new Promise<void>((resolve) => server.once('listening', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    said: () => said,
    [Symbol.asyncDispose]: async () => {
      for (const client of server.clients) client.terminate();
      await new Promise((resolve) => server.close(resolve));
    },
  };
};

const clock = { now: () => Date.now(), monotonic: () => performance.now() };
/** The node web-1, connecting to `server` and pinned to the key of `stage`. What it was told to do is in `obeyed`. */
const connect = async (
  stage: GatewayStage,
  server: string,
  obeyed: unknown[] = [],
  { signal } = new AbortController(),
): Promise<Link> => {
  const [node] = stage.nodes;
  if (!node) throw new Error('no node');
  let ids = 0;
  return openLink(
    {
      server,
      secure: { trust: {}, proxy: {} },
      userAgent: 'Aegis-Agent/0',
      node: { uid: node.uid, name: node.name, fleet: FLEET, key: node.keys },
      isServerKey: (raw) => raw.equals(stage.server.publicRaw),
      channels: [],
      handlerOf:
        () =>
        ({ body }) =>
          obeyed.push(body),
      newId: () => `n-${ids++}`,
      clock,
    },
    signal,
  );
};
const flipBit = (base64: string): string => {
  const bytes = Buffer.from(base64, 'base64');
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  return bytes.toString('base64');
};
const as: Alter = (frame) => [frame];

test('the way between, unaltered, is one that works', async () => {
  await using stage = await startGateway();
  await using between = await startBetween(stage.url, as);
  const obeyed: unknown[] = [];
  await connect(stage, between.url, obeyed);
  await settled(() => expect(stage.gateway.connections.count()).toBe(1));
  await stage.gateway.connections.of('web-1-uid')?.notify('orders', 1);
  await settled(() => expect(obeyed).toEqual([1]));
});

test('a forged server, not the one that was pinned: the node says nothing to it', async () => {
  await using stage = await startGateway();
  await using forged = await startGateway({ nodes: stage.nodes });
  await using between = await startBetween(forged.url, as);
  await expect(connect(stage, between.url)).rejects.toMatchObject({ code: 'channel.bad_handshake' });
  expect([between.said(), forged.gateway.connections.count()]).toEqual([1, 0]);
});

test("a flipped bit in each field of the server's answer", async () => {
  await using stage = await startGateway();
  const flips: Record<string, (answer: AuthenticationResponse & Record<string, unknown>) => unknown> = {
    backend_key: (answer) => flipBit(`${answer.backend_key}`),
    session_token: () => 'another',
    expires_at: (answer) => Number(answer.expires_at) ^ 1,
    version: () => 2,
    server_key: (answer) => flipBit(`${answer.server_key}`),
    nonce: (answer) => flipBit(`${answer.nonce}`),
    timestamp: (answer) => Number(answer.timestamp) ^ 1,
    sign_messages: () => true,
    rotation_messages: (answer) => Number(answer.rotation_messages) ^ 1,
    rotation_sec: (answer) => Number(answer.rotation_sec) ^ 1,
    heartbeat_sec: (answer) => Number(answer.heartbeat_sec) ^ 1,
    signature: (answer) => flipBit(`${answer.signature}`),
  };
  for (const [field, flip] of Object.entries(flips)) {
    await using between = await startBetween(stage.url, (frame, way) => {
      if (way === 'to server') return [frame];
      const answer = JSON.parse(frame);
      return [JSON.stringify({ ...answer, [field]: flip(answer) })];
    });
    const outcome = await connect(stage, between.url).then(
      () => 'connected',
      (error: { code: string }) => error.code,
    );
    expect([field, outcome, between.said()]).toEqual([field, 'channel.bad_handshake', 1]);
  }
  expect(stage.gateway.connections.count()).toBe(0);
});

test('versions that are changed on the way up: the server refuses', async () => {
  await using stage = await startGateway();
  await using between = await startBetween(stage.url, (frame, way) =>
    way === 'to node' ? [frame] : [frame.replace('"versions":[1]', '"versions":[1,1]')],
  );
  await expect(connect(stage, between.url)).rejects.toMatchObject({ code: 'access.unauthenticated' });
  expect(stage.refused.map(({ error }) => error.code)).toEqual(['access.unauthenticated']);
});

describe("the server's messages, changed on the way", () => {
  const message = (frame: string) => JSON.parse(frame) as SecureMessage;
  /** Of the second and later frames to the node: the first is the answer to its handshake. */
  const cases: Record<string, [Alter, string, unknown[]]> = {
    'said twice': [(frame) => [frame, frame], 'channel.bad_sequence', [1]],
    'left out': [(frame, _, nth) => (nth === 1 ? [] : [frame]), 'channel.bad_sequence', []],
    'a bit of the payload': [
      (frame) => [JSON.stringify({ ...message(frame), payload: flipBit(message(frame).payload) })],
      'channel.bad_seal',
      [],
    ],
    'on another channel': [
      (frame) => [JSON.stringify({ ...message(frame), channel: 'others' })],
      'channel.bad_seal',
      [],
    ],
    'with another time': [
      (frame) => [JSON.stringify({ ...message(frame), timestamp: message(frame).timestamp + 1 })],
      'channel.bad_seal',
      [],
    ],
    'no message at all': [() => ['{"do":"everything"}'], 'channel.bad_frame', []],
  };
  test.each(Object.entries(cases))('%s', async (_, [alter, code, wanted]) => {
    await using stage = await startGateway();
    await using between = await startBetween(stage.url, (frame, way, nth) =>
      way === 'to node' && nth > 0 ? alter(frame, way, nth) : [frame],
    );
    const obeyed: unknown[] = [];
    const link = await connect(stage, between.url, obeyed);
    await settled(() => expect(stage.gateway.connections.count()).toBe(1));
    const connection = stage.gateway.connections.of('web-1-uid');
    await connection?.notify('orders', 1);
    await connection?.notify('orders', 2).catch(() => undefined); // it may have ended by now
    expect((await link.ended).code).toBe(code);
    expect(obeyed).toEqual(wanted);
  });
});

test('what the node itself said, reflected to it', async () => {
  await using stage = await startGateway();
  const mine: string[] = [];
  await using between = await startBetween(stage.url, (frame, way, nth) => {
    if (way === 'to server') mine.push(frame);
    return way === 'to node' && nth > 0 ? mine.slice(1, 2) : [frame];
  });
  const obeyed: unknown[] = [];
  const link = await connect(stage, between.url, obeyed);
  await settled(() => expect(stage.gateway.connections.count()).toBe(1));
  await stage.gateway.connections.of('web-1-uid')?.notify('orders', 1);
  expect((await link.ended).code).toBe('channel.bad_seal');
  expect(obeyed).toEqual([]);
});

test('the node tells in its log that somebody is in between', async () => {
  await using stage = await startGateway();
  await using between = await startBetween(stage.url, (frame, way, nth) =>
    way === 'to node' && nth > 0 ? [frame, frame] : [frame],
  );
  const lines: string[] = [];
  const stopping = new AbortController();
  const loop = linkLoop({
    open: () => connect(stage, between.url, [], stopping),
    refreshTrust: async () => false,
    changed: () => undefined,
    clock,
    random: () => 0,
    log: createLog({ level: 'warn', format: 'json' }, (line) => lines.push(line)),
    signal: stopping.signal,
  });
  await settled(() => expect(stage.gateway.connections.count()).toBe(1));
  await stage.gateway.connections.of('web-1-uid')?.notify('orders', 1);
  await settled(() => expect(lines).toHaveLength(1));
  expect(JSON.parse(lines[0] ?? '')).toMatchObject({ level: 'warn', code: 'channel.bad_sequence' });
  stopping.abort();
  await loop.done;
});
