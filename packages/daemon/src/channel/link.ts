import { randomBytes } from 'node:crypto';
import type { KeyPair } from '@aegis/protocol/access/keys';
import { publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { CHANNEL_PATH, CLOSE } from '@aegis/protocol/channel/call';
import { makeEphemeral, openAnswer, signRequest } from '@aegis/protocol/channel/handshake';
import {
  type AcceptedAuthentication,
  AuthenticationResponse,
  CHANNEL_VERSIONS,
  MAX_MESSAGE_BYTES,
} from '@aegis/protocol/channel/messages';
import { opener, sealer } from '@aegis/protocol/channel/sealing';
import { type SecureConnectOptions, secureAgent } from '@aegis/protocol/channel/secure-connect';
import { type Handler, type Session, session } from '@aegis/protocol/channel/session';
import { socketWire } from '@aegis/protocol/channel/socket-wire';
import { AegisError, isErrorCode } from '@aegis/protocol/errors';
import { VERSION } from '@aegis/protocol/version';
import { WebSocket } from 'ws';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import { MAX_RETRY_AFTER_MS, Unreachable } from '../platform/http/client.ts';

/** One connection of the node's channel: WebSocket, handshake, hello, session. What to do when it ends is link-loop.ts's. */

export interface LinkOptions {
  /** The server's origin, http:// or https://. */
  server: string;
  /** For https. */
  secure: SecureConnectOptions;
  userAgent: string;
  node: { uid: string; name: string; fleet: string; key: KeyPair };
  /** Whether the trust bundle lets this key serve. */
  isServerKey(raw: Buffer): boolean;
  /** On which the node listens beside the built-in ones. */
  channels: readonly string[];
  /** Of what the server says or asks on its own account; null: nobody listens there. */
  handlerOf(channel: string): Handler | null;
  newId(): string;
  clock: Clock;
}

export interface Link {
  readonly session: Session;
  /** By the monotonic clock: from then on another connection takes its place. */
  readonly renewAtMs: number;
  /** What the server's clock said, less ours. */
  readonly skewMs: number;
  /** Resolves when it is over. */
  readonly ended: Promise<AegisError>;
  end(reason: AegisError): void;
}

const HANDSHAKE_MS = 15_000;
const TICK_MS = 1000;
const CLOSE_MS = 2000;

/** @throws Unreachable; AegisError channel.*, access.*, nodes.* as the server said */
export const openLink = async (options: LinkOptions, signal: AbortSignal): Promise<Link> => {
  const { node, clock } = options;
  signal.throwIfAborted();
  const ws = new WebSocket(`${options.server.replace(/^http/, 'ws')}${CHANNEL_PATH}`, {
    headers: {
      'x-agent-id': node.uid,
      'x-agent-public-key': node.key.publicRaw.toString('base64'),
      'user-agent': options.userAgent,
    },
    ...(options.server.startsWith('https:') ? { agent: secureAgent({}, options.secure) } : {}),
    perMessageDeflate: false,
    followRedirects: false,
    maxPayload: MAX_MESSAGE_BYTES,
    handshakeTimeout: HANDSHAKE_MS,
  });
  const onAbort = (): void => ws.terminate();
  signal.addEventListener('abort', onAbort, { once: true });
  const late = setTimeout(onAbort, 2 * HANDSHAKE_MS);
  ws.on('error', () => undefined); // 'close' follows; before the handshake the promise below hears of it
  let link: Link | null = null;
  ws.once('upgrade', ({ socket }) => socket.on('data', () => link?.session.heard()));
  try {
    await opened(ws);
    const ephemeral = makeEphemeral();
    const request = signRequest(node.fleet, node.key, {
      agent_id: node.uid,
      public_key: node.key.publicRaw.toString('base64'),
      timestamp: Math.floor(clock.now() / 1000),
      nonce: randomBytes(32).toString('base64'),
      versions: [...CHANNEL_VERSIONS],
      ephemeral_key: ephemeral.publicRaw.toString('base64'),
    });
    const answered = nextFrame(ws);
    ws.send(JSON.stringify(request));
    const answer = accepted(await answered);
    const keys = openAnswer({ fleet: node.fleet, isServerKey: options.isServerKey, ephemeral }, request, answer);
    link = await begin(ws, options, answer, keys);
    return link;
  } catch (error) {
    ws.terminate();
    signal.throwIfAborted();
    throw error;
  } finally {
    clearTimeout(late);
    signal.removeEventListener('abort', onAbort);
  }
};

const begin = async (
  ws: WebSocket,
  { node, clock, newId, handlerOf, channels }: LinkOptions,
  answer: AcceptedAuthentication,
  keys: ReturnType<typeof openAnswer>,
): Promise<Link> => {
  const { promise: ended, resolve } = Promise.withResolvers<AegisError>();
  const rotation = { messages: answer.rotation_messages, ms: answer.rotation_sec * 1000 };
  const one = session({
    wire: socketWire(ws),
    sealer: sealer({
      key: keys.nodeToServer,
      direction: 'node to server',
      rotation,
      clock,
      signing: answer.sign_messages ? { privateKey: node.key.privateKey, sessionId: keys.sessionId } : null,
    }),
    opener: opener({
      key: keys.serverToNode,
      direction: 'server to node',
      verifying: answer.sign_messages
        ? { publicKey: publicKeyFromRaw(Buffer.from(answer.server_key, 'base64')), sessionId: keys.sessionId }
        : null,
    }),
    handlerOf,
    newId,
    clock,
    heartbeatMs: answer.heartbeat_sec * 1000,
    ended: (reason) => {
      clearInterval(ticking);
      ws.close(reason.code.startsWith('channel.') ? CLOSE.broken : 1000);
      setTimeout(() => ws.terminate(), CLOSE_MS).unref();
      resolve(reason);
    },
  });
  const ticking = setInterval(one.tick, TICK_MS);
  ws.on('message', (data: Buffer, isBinary: boolean) => {
    if (isBinary) one.end(new AegisError('channel.bad_frame', 'The server sent bytes where text is due.'));
    else one.take(data.toString('utf8'));
  });
  ws.on('close', (code: number) => one.end(endOf(code)));
  if (ws.readyState !== WebSocket.OPEN) one.end(endOf(1006));
  await one.notify('hello', { version: VERSION, channels });
  const lastsMs = Math.max(0, answer.expires_at - answer.timestamp) * 1000;
  return {
    session: one,
    renewAtMs: clock.monotonic() + lastsMs * 0.9,
    skewMs: answer.timestamp * 1000 - clock.now(),
    ended,
    end: one.end,
  };
};

const opened = (ws: WebSocket): Promise<void> =>
  new Promise((resolve, reject) => {
    ws.once('open', resolve);
    ws.once('unexpected-response', (request, response) => {
      request.destroy();
      const retryAfterMs = Math.min(
        MAX_RETRY_AFTER_MS,
        Math.max(0, Number(response.headers['retry-after'] ?? 0) * 1000),
      );
      reject(new Unreachable(`the channel was refused with ${response.statusCode}`, retryAfterMs || 0));
    });
    ws.once('error', (cause) => reject(new Unreachable(`the channel: ${cause.message}`, 0, cause)));
    ws.once('close', () => reject(new Unreachable('the channel broke off')));
  });

const nextFrame = (ws: WebSocket): Promise<string> =>
  new Promise((resolve, reject) => {
    ws.once('message', (data: Buffer) => resolve(data.toString('utf8')));
    ws.once('close', () => reject(new Unreachable('the channel broke off in its handshake')));
  });

/** @throws AegisError as the server said; Unreachable for what is no answer, and for what may be otherwise soon */
const accepted = (text: string): AcceptedAuthentication => {
  let answer: AuthenticationResponse;
  try {
    answer = z.parse(AuthenticationResponse, JSON.parse(text));
  } catch (cause) {
    throw new Unreachable('the channel: the answer is not what the protocol says', 0, cause);
  }
  if (answer.success) return answer;
  const { message, code = '', retry_after_ms: retryAfterMs = 0 } = answer;
  if (isErrorCode(code) && !code.startsWith('http.')) throw new AegisError(code, message);
  throw new Unreachable(`the channel was refused: ${message}`, Math.min(retryAfterMs, MAX_RETRY_AFTER_MS));
};

const endOf = (code: number): AegisError => {
  if (code === CLOSE.dismissed)
    return new AegisError('nodes.retired', 'The server says that this node is retired or deactivated.');
  const why = Object.entries(CLOSE).find(([, value]) => value === code)?.[0] ?? `${code}`;
  return new AegisError('http.unavailable', `The channel to the server ended (${why}).`);
};
