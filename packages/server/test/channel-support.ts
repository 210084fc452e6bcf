import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import { CHANNEL_PATH } from '@aegis/protocol/channel/call';
import { makeEphemeral, openAnswer, type SessionKeys, signRequest } from '@aegis/protocol/channel/handshake';
import type {
  AcceptedAuthentication,
  AuthenticationRequest,
  AuthenticationResponse,
} from '@aegis/protocol/channel/messages';
import { type Opened, opener, type Sealer, sealer } from '@aegis/protocol/channel/sealing';
import type { AegisError } from '@aegis/protocol/errors';
import { WebSocket } from 'ws';
import type { ChannelCalls } from '../src/channel/calls.ts';
import { type Gateway, type GatewayOptions, gateway } from '../src/channel/gateway.ts';
import type { NodeActor } from '../src/platform/http/actor.ts';
import { silentLog } from '../src/platform/log.ts';

/** A gateway on a bare HTTP server, and a node that speaks to it frame by frame: so that each frame can be wrong. */

export const FLEET = '01a1fd03-ab32-7149-9a1f-9165a79627d9';

export interface KnownNode {
  uid: string;
  name: string;
  keys: KeyPair;
  refused?: AegisError;
}
export interface GatewayStage extends AsyncDisposable {
  url: string;
  gateway: Gateway;
  server: KeyPair;
  nodes: KnownNode[];
  refused: { agentId: string; error: AegisError; node: NodeActor | null }[];
  /** Look-ups of nodes: under way at once, and the most there were. */
  looked: { now: number; most: number };
  stop(): void;
}

export const startGateway = async (
  more: {
    calls?: ChannelCalls;
    attached?: GatewayOptions['attached'];
    limits?: Partial<GatewayOptions['limits']>;
    nodes?: KnownNode[];
    clock?: GatewayOptions['clock'];
  } = {},
): Promise<GatewayStage> => {
  const server = generateKeyPair();
  const nodes: KnownNode[] =
    more.nodes ?? ['web-1', 'web-2'].map((name) => ({ uid: `${name}-uid`, name, keys: generateKeyPair() }));
  const refused: GatewayStage['refused'] = [];
  const stopping = new AbortController();
  const looked = { now: 0, most: 0 };
  let ids = 0;
  const one = gateway({
    fleet: FLEET,
    identity: server,
    nodes: {
      nodeOf: async (id) => {
        looked.most = Math.max(looked.most, ++looked.now);
        await new Promise(setImmediate); // as a database would
        looked.now--;
        const found = nodes.find(({ uid, name }) => id === uid || id === name);
        return found
          ? { uid: found.uid, name: found.name, publicKey: found.keys.publicRaw, refused: found.refused ?? null }
          : null;
      },
      actorOf: async (uid) => ({ kind: 'node', uid, name: uid, keyId: null, keyless: false }),
      attend: () => () => undefined,
    },
    attached: more.attached ?? (() => () => undefined),
    calls: more.calls ?? (() => null),
    refused: ({ agentId, error, node }) => refused.push({ agentId, error, node }),
    limits: {
      handshakeMs: 10_000,
      sessionMs: 3_600_000,
      heartbeatMs: 15_000,
      rotation: { messages: 1000, ms: 3_600_000 },
      signMessages: false,
      maxUnauthenticated: 100,
      maxUnauthenticatedEach: 100,
      maxConnections: 1000,
      ...more.limits,
    },
    clock: more.clock ?? { now: () => Date.now(), monotonic: () => performance.now() },
    newId: () => `s-${ids++}`,
    log: silentLog(),
    stopping: stopping.signal,
  });
  const http = createServer((_, response) => response.writeHead(404).end());
  http.on('upgrade', (request, socket, head) => one.upgrade(request, socket, head, request.socket.remoteAddress ?? ''));
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  const { port } = http.address() as AddressInfo;
  return {
    url: `ws://127.0.0.1:${port}${CHANNEL_PATH}`,
    gateway: one,
    server,
    nodes,
    refused,
    looked,
    stop: () => stopping.abort(),
    [Symbol.asyncDispose]: async () => {
      stopping.abort();
      await one.close(1000);
      http.closeAllConnections();
      await new Promise((resolve) => http.close(resolve));
    },
  };
};

export interface RawNode {
  ws: WebSocket;
  /** The next text frame. @throws Error with the close code when there is none any more */
  next(): Promise<string>;
  closed: Promise<{ code: number; reason: string }>;
}
/** A WebSocket, and nothing said on it yet. */
export const open = async (url: string, headers: Record<string, string>): Promise<RawNode> => {
  const ws = new WebSocket(url, { headers, perMessageDeflate: false });
  const frames: string[] = [];
  let wake = (): void => undefined;
  const { promise: closed, resolve } = Promise.withResolvers<{ code: number; reason: string }>();
  let over: { code: number; reason: string } | null = null;
  ws.on('message', (data: Buffer) => {
    frames.push(data.toString('utf8'));
    wake();
  });
  ws.on('error', () => undefined);
  ws.on('close', (code, reason) => {
    over = { code, reason: reason.toString('utf8') };
    resolve(over);
    wake();
  });
  await new Promise<void>((done, fail) => {
    ws.once('open', done);
    ws.once('unexpected-response', (_, response) => {
      let text = '';
      response.on('data', (chunk: Buffer) => {
        text += chunk.toString('utf8');
      });
      response.on('end', () => fail(new Error(`${response.statusCode} ${text}`)));
    });
    ws.once('error', fail);
  });
  const next = async (): Promise<string> => {
    for (;;) {
      const frame = frames.shift();
      if (frame !== undefined) return frame;
      if (over) throw new Error(`closed ${over.code} ${over.reason}`);
      await new Promise<void>((go) => {
        wake = go;
      });
    }
  };
  return { ws, next, closed };
};

export const headersOf = (node: KnownNode): Record<string, string> => ({
  'x-agent-id': node.name,
  'x-agent-public-key': node.keys.publicRaw.toString('base64'),
  'user-agent': 'Aegis-Agent/1.0',
});

export interface Handshake {
  request: AuthenticationRequest;
  ephemeral: ReturnType<typeof makeEphemeral>;
}
export const requestOf = (
  node: KnownNode,
  change: Partial<Omit<AuthenticationRequest, 'signature'>> = {},
  fleet = FLEET,
): Handshake => {
  const ephemeral = makeEphemeral();
  const request = signRequest(fleet, node.keys, {
    agent_id: node.name,
    public_key: node.keys.publicRaw.toString('base64'),
    timestamp: Math.floor(Date.now() / 1000),
    nonce: randomBytes(32).toString('base64'),
    versions: [1],
    ephemeral_key: ephemeral.publicRaw.toString('base64'),
    ...change,
  });
  return { request, ephemeral };
};

export interface ChannelNode extends RawNode {
  answer: AcceptedAuthentication;
  keys: SessionKeys;
  seal: Sealer['seal'];
  /** The next message, opened. */
  read(): Promise<Opened & { body: unknown }>;
  say(channel: string, body: unknown, type?: 'event' | 'request'): void;
  ask(channel: string, body: unknown): Promise<unknown>;
}
/** Connected, and its hello said unless told otherwise. */
export const connectNode = async (
  stage: GatewayStage,
  node: KnownNode | undefined,
  { hello = true }: { hello?: boolean } = {},
): Promise<ChannelNode> => {
  if (!node) throw new Error('no such node');
  const raw = await open(stage.url, headersOf(node));
  const { request, ephemeral } = requestOf(node);
  raw.ws.send(JSON.stringify(request));
  const answer = JSON.parse(await raw.next()) as AuthenticationResponse;
  if (!answer.success) throw new Error(`refused: ${answer.code} ${answer.message}`);
  const keys = openAnswer(
    { fleet: FLEET, isServerKey: (raw) => raw.equals(stage.server.publicRaw), ephemeral },
    request,
    answer,
  );
  const clock = { now: () => Date.now(), monotonic: () => performance.now() };
  const sealing = sealer({
    key: Buffer.from(keys.nodeToServer),
    direction: 'node to server',
    rotation: { messages: answer.rotation_messages, ms: answer.rotation_sec * 1000 },
    clock,
    signing: answer.sign_messages ? { privateKey: node.keys.privateKey, sessionId: keys.sessionId } : null,
  });
  const opening = opener({ key: Buffer.from(keys.serverToNode), direction: 'server to node', verifying: null });
  let ids = 0;
  const say = (channel: string, body: unknown, type: 'event' | 'request' = 'event'): string => {
    const id = `n-${ids++}`;
    raw.ws.send(sealing.seal({ id, type, channel }, JSON.stringify(body)));
    return id;
  };
  const read = async () => {
    const opened = opening.open(await raw.next());
    return { ...opened, body: JSON.parse(opened.payload.toString('utf8')) as unknown };
  };
  if (hello) say('hello', { version: '0.1.0' });
  return {
    ...raw,
    answer,
    keys,
    seal: sealing.seal,
    read,
    say,
    ask: async (channel, body) => {
      const id = say(channel, body, 'request');
      for (;;) {
        const message = await read();
        const { in_reply_to, ...rest } = message.body as { in_reply_to?: string };
        if (in_reply_to === id) return rest;
      }
    },
  };
};
