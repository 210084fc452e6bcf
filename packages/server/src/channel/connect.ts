import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { KeyPair } from '@aegis/protocol/access/keys';
import { keyIdOf, publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { CLOSE, Hello } from '@aegis/protocol/channel/call';
import { acceptRequest, makeEphemeral, type SessionKeys } from '@aegis/protocol/channel/handshake';
import { MAX_HANDSHAKE_BYTES } from '@aegis/protocol/channel/messages';
import { opener, sealer } from '@aegis/protocol/channel/sealing';
import { type Session, session } from '@aegis/protocol/channel/session';
import { socketWire } from '@aegis/protocol/channel/socket-wire';
import { AegisError } from '@aegis/protocol/errors';
import type { WebSocket } from 'ws';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import type { NodeActor } from '../platform/http/actor.ts';
import type { Log } from '../platform/log.ts';
import { turns } from '../platform/turns.ts';
import { type Admitted, admit, type ChannelNode, type Claimed } from './authenticate.ts';
import type { ChannelCalls } from './calls.ts';
import { type Connection, type Connections, superseded } from './connections.ts';
import type { Rechecking } from './recheck.ts';

/** One connection from its WebSocket to its end: handshake, first sealed message, session. */

export interface ConnectionLimits {
  handshakeMs: number;
  sessionMs: number;
  heartbeatMs: number;
  rotation: { messages: number; ms: number };
  signMessages: boolean;
}

export interface ConnectOptions {
  ws: WebSocket;
  socket: Duplex;
  claimed: Claimed;
  address: string;
  sessionToken: string;
  fleet: string;
  identity: KeyPair;
  nodes: {
    nodeOf(id: string): Promise<ChannelNode | null>;
    actorOf(uid: string): Promise<NodeActor>;
    attend(uid: string): () => void;
  };
  /** Told of each connection that counts from now on; what it gives back is called once, when it has ended. */
  attached(connection: Connection): () => void;
  calls: ChannelCalls;
  refused(facts: { agentId: string; address: string; error: AegisError; node: NodeActor | null }): void;
  limits: ConnectionLimits;
  connections: Connections;
  rechecking: Rechecking;
  /** Called once it no longer counts as unknown. */
  authenticated(): void;
  clock: Clock & { monotonic(): number };
  newId(): string;
  log: Log;
}

/** What the frames of one handshake may take on the wire. */
const FRAME_OVERHEAD_BYTES = 1024;
const CLOSE_MS = 5000;
const PINGS_PER_SEC = 5;
/** Below it, a clock that differs is nothing to speak of. */
const TELL_SKEW_SEC = 30;

export const connect = (on: ConnectOptions): void => {
  const { ws, socket, clock, limits, log } = on;
  let judged = false;
  let open: Open | null = null;
  let over = false;
  let proven = false;
  let heard = 0;

  socket.on('data', (chunk: Buffer) => {
    if (proven) return open?.session.heard();
    heard += chunk.length;
    if (heard <= MAX_HANDSHAKE_BYTES + FRAME_OVERHEAD_BYTES) return;
    broken(`More than ${MAX_HANDSHAKE_BYTES} bytes came before the handshake was over.`);
    socket.destroy();
  });
  const known = (): void => {
    clearTimeout(late);
    proven = true;
    on.authenticated();
  };
  const close = (code: number, reason: string): void => {
    if (over) return;
    over = true;
    clearTimeout(late);
    ws.close(code, reason);
    setTimeout(() => ws.terminate(), CLOSE_MS).unref();
  };
  /** What came is not of the protocol: nobody is answered. */
  const broken = (what: string): void => {
    if (over) return;
    const error = new AegisError('channel.bad_frame', `${what} The node connects anew.`);
    if (open) {
      open.session.end(error); // which tells of it, and closes
      return;
    }
    on.refused({ agentId: on.claimed.agentId.slice(0, 128), address: on.address, error, node: null });
    close(CLOSE.broken, error.code);
  };
  const refuse = (error: unknown): void => {
    if (over) return;
    const known =
      error instanceof AegisError
        ? error
        : new AegisError('http.internal', 'The server failed within.', { cause: error });
    if (known.code === 'http.internal') log.error({ err: known.cause ?? known }, 'a handshake of the channel failed');
    on.refused({ agentId: on.claimed.agentId.slice(0, 128), address: on.address, error: known, node: null });
    ws.send(
      JSON.stringify({
        success: false,
        backend_key: '',
        session_token: '',
        expires_at: 0,
        message: known.message,
        code: known.code,
        ...(known.retryAfterSec === undefined ? {} : { retry_after_ms: known.retryAfterSec * 1000 }),
      }),
    );
    close(CLOSE.refused, known.code);
  };
  const late = setTimeout(
    () =>
      refuse(
        new AegisError(
          'channel.bad_handshake',
          `The handshake took longer than ${limits.handshakeMs / 1000} s. Connect again.`,
        ),
      ),
    limits.handshakeMs,
  );
  const handshake = async (text: string): Promise<void> => {
    const { fleet, identity } = on;
    const nowMs = clock.now();
    const changes = on.rechecking.changes();
    const admitted = await admit(text, on.claimed, { fleet, nodeOf: on.nodes.nodeOf, nowMs });
    if (over) return;
    const expiresAtMs = nowMs + limits.sessionMs;
    const { answer, keys } = acceptRequest({ fleet, identity, ephemeral: makeEphemeral() }, admitted.request, {
      session_token: on.sessionToken,
      expires_at: Math.floor(expiresAtMs / 1000),
      version: admitted.version,
      nonce: randomBytes(32).toString('base64'),
      timestamp: Math.floor(nowMs / 1000),
      sign_messages: limits.signMessages,
      rotation_messages: limits.rotation.messages,
      rotation_sec: Math.max(1, Math.round(limits.rotation.ms / 1000)),
      heartbeat_sec: Math.max(1, Math.round(limits.heartbeatMs / 1000)),
    });
    open = openSession(on, { admitted, changes, keys, expiresAtMs, known, close });
    ws.send(JSON.stringify(answer));
  };

  let frames = 0;
  /** What waits for its turn keeps its socket from being read further: no more than one piece of it is held. */
  const inTurn = (work: () => void): void => {
    frames++;
    const atOnce = turns.run(() => {
      frames--;
      if (frames === 0 && ws.isPaused) ws.resume();
      work();
    });
    if (!atOnce) ws.pause();
  };

  let pings = { second: 0, count: 0 };
  ws.on('ping', () => {
    const second = Math.floor(clock.monotonic() / 1000);
    pings = { second, count: pings.second === second ? pings.count + 1 : 1 };
    if (pings.count <= PINGS_PER_SEC) return;
    broken(`More than ${PINGS_PER_SEC} pings came within a second.`);
    ws.terminate();
  });
  ws.on('message', (data: Buffer, isBinary: boolean) => {
    if (over) return;
    if (isBinary) return broken('Bytes came where text is due.');
    if (judged && !open) return broken('A frame came before the handshake was answered.');
    if (open) return inTurn(() => open?.session.take(data.toString('utf8')));
    judged = true;
    inTurn(() => void (over || handshake(data.toString('utf8')).catch(refuse)));
  });
  // 'close' follows. What the WebSocket itself does not take is a frame that is none, or too large.
  ws.on('error', (error: Error & { code?: string }) => {
    if (error.code?.startsWith('WS_ERR_')) broken('A frame came that is none of the channel, or too large.');
  });
  ws.on('close', () => {
    over = true;
    clearTimeout(late);
    open?.session.end(new AegisError('http.unavailable', 'The connection of the channel broke.'));
  });
};

interface Open {
  session: Session;
}

const openSession = (
  on: ConnectOptions,
  facts: {
    admitted: Admitted;
    /** That were known of when the node was looked up. */
    changes: number;
    keys: SessionKeys;
    expiresAtMs: number;
    known(): void;
    close(code: number, reason: string): void;
  },
): Open => {
  const { ws, clock, limits, log } = on;
  // One by one: what a function below names is held for as long as the connection lasts, and request and keys need not be.
  const { changes, keys, expiresAtMs, known, close } = facts;
  const { uid, name, publicKey } = facts.admitted.node;
  const { skewSec } = facts.admitted;
  const calling = new AbortController();
  const { promise: closed, resolve: nowClosed } = Promise.withResolvers<void>();
  let closeCode: number | null = null;
  let leave = (): void => undefined;
  let channels: readonly string[] | null = null;
  let proven = false;

  const opening = opener({
    key: keys.nodeToServer,
    direction: 'node to server',
    verifying: limits.signMessages ? { publicKey: publicKeyFromRaw(publicKey), sessionId: keys.sessionId } : null,
  });
  /** The first message shows that whoever is there holds the keys: only now it counts. */
  const prove = (channel: string, payload: Buffer): void => {
    const hello = channel === 'hello' ? z.safeParse(Hello, JSON.parse(payload.toString('utf8'))) : null;
    if (!hello?.success)
      throw new AegisError('channel.bad_frame', "A node's first message is its hello, as docs/channel.md has it.");
    proven = true;
    known();
    channels = hello.data.channels ?? null;
    const leaveNode = on.nodes.attend(uid);
    on.connections.add(connection)?.end(superseded(), CLOSE.superseded);
    const detach = on.attached(connection);
    leave = () => {
      detach();
      leaveNode();
    };
    if (on.rechecking.changes() !== changes) void on.rechecking.look(uid); // it was not among those that were looked up
    const about = { node: name, uid, session: on.sessionToken.slice(0, 8), address: on.address };
    log.debug(about, 'a node connected');
    if (Math.abs(skewSec) > TELL_SKEW_SEC)
      log.warn({ ...about, skew_sec: skewSec }, "this node's clock differs from the server's");
  };
  const one = session({
    wire: socketWire(ws),
    sealer: sealer({
      key: keys.serverToNode,
      direction: 'server to node',
      rotation: limits.rotation,
      clock,
      signing: limits.signMessages ? { privateKey: on.identity.privateKey, sessionId: keys.sessionId } : null,
    }),
    opener: {
      open: (frame) => {
        const opened = opening.open(frame);
        if (!proven) prove(opened.channel, opened.payload);
        return opened;
      },
    },
    handlerOf: (channel) =>
      channel === 'hello'
        ? () => null
        : on.calls(channel, {
            actor: () => on.nodes.actorOf(uid),
            remoteAddress: on.address,
            signal: calling.signal,
          }),
    newId: on.newId,
    clock,
    heartbeatMs: limits.heartbeatMs,
    ended: (reason) => {
      calling.abort('the connection ended');
      on.connections.remove(connection);
      leave();
      close(closeCode ?? (reason.code.startsWith('channel.') ? CLOSE.broken : CLOSE.silent), reason.code);
      if (reason.code.startsWith('channel.'))
        on.refused({
          agentId: uid,
          address: on.address,
          error: reason,
          // Who has only sent a handshake again is not that node.
          node: proven ? { kind: 'node', uid, name, keyId: keyIdOf(publicKey), keyless: false } : null,
        });
      nowClosed();
    },
  });
  const end = (reason: AegisError, code: number): void => {
    closeCode = code;
    one.end(reason);
  };
  const connection: Connection = {
    uid,
    name,
    sessionToken: on.sessionToken,
    remoteAddress: on.address,
    connectedAtMs: clock.now(),
    expiresAtMs,
    get channels() {
      return channels;
    },
    notify: one.notify,
    request: one.request,
    tick: () => {
      if (clock.now() >= expiresAtMs)
        end(new AegisError('http.unavailable', 'The session is over: the node connects anew.'), CLOSE.expired);
      else one.tick();
    },
    end,
    dismiss: () =>
      end(new AegisError('nodes.retired', 'The node was retired or deactivated at the server.'), CLOSE.dismissed),
    stop: (graceMs) => {
      calling.abort('the server stops');
      const stopped = (): void =>
        end(new AegisError('http.unavailable', 'The server stops. The node connects anew.'), CLOSE.stopping);
      const timer = setTimeout(stopped, graceMs);
      one.answered().then(() => {
        clearTimeout(timer);
        stopped();
      });
    },
    closed,
  };
  return { session: one };
};
