/** channel: the nodes' WebSocket (GET /ws/agent). Owns handshakes, connections and what is said on them; called by the listeners for each
 *  upgrade, and by whoever has something to say to a node. Calls that come over it are answered by the routes of the other domains (calls.ts).
 *  Invariant: nothing is done for a connection before its first sealed message opened, and then only as the node whose key signed.
 *  Must not: know what a message is about. */
import { randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import type { KeyPair } from '@aegis/protocol/access/keys';
import { CHANNEL_PATH } from '@aegis/protocol/channel/call';
import { MAX_MESSAGE_BYTES } from '@aegis/protocol/channel/messages';
import type { Endpoint } from '@aegis/protocol/endpoint';
import { AegisError, errorBody, httpStatusOf } from '@aegis/protocol/errors';
import { type WebSocket, WebSocketServer } from 'ws';
import type { Clock } from '../platform/clock.ts';
import type { NodeActor } from '../platform/http/actor.ts';
import { endSocket } from '../platform/http/end-socket.ts';
import { addressKey, rateLimiter } from '../platform/http/rate-limit.ts';
import type { Log } from '../platform/log.ts';
import { admission, type Place } from './admission.ts';
import type { ChannelNode, Claimed } from './authenticate.ts';
import type { ChannelCalls } from './calls.ts';
import { type ConnectionLimits, connect } from './connect.ts';
import { type Connection, connections } from './connections.ts';
import { rechecking } from './recheck.ts';

export interface GatewayOptions {
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
  /** Told of each handshake that was refused, and of each connection that ended because what came was not good (then `node` is whose it was). */
  refused(facts: { agentId: string; address: string; error: AegisError; node: NodeActor | null }): void;
  limits: ConnectionLimits & {
    /** Connections that have not authenticated: in all, and from one address. */
    maxUnauthenticated: number;
    maxUnauthenticatedEach: number;
    maxConnections: number;
  };
  clock: Clock & { monotonic(): number };
  newId(): string;
  log: Log;
  stopping: AbortSignal;
}

export interface Gateway {
  /** Takes over the socket of an upgrade request to `path`, or answers it. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, remoteAddress: string): void;
  readonly connections: ReturnType<typeof connections>;
  /** How many have begun and not shown who they are. */
  waiting(): number;
  /** The node is another than it was (null: any may be): whether it may still be connected is looked up. */
  recheck(uid: string | null): void;
  /** Waits at most `graceMs` for answers under way. */
  close(graceMs: number): Promise<void>;
}

/** For the audit: it is no route, and answers nothing over HTTP. */
export const CHANNEL_UPGRADE: Endpoint = {
  id: 'connectChannel',
  door: 'gateway',
  method: 'GET',
  path: CHANNEL_PATH,
  caller: 'node',
  summary: "A node's WebSocket",
  tag: 'channel',
};
const TICK_MS = 1000;
const RETRY_MS = 2000;
/** Of connections from one address that ended before they had shown who they are. A site whose line breaks in the middle of it loses hundreds. */
const FAILURES = { burst: 500, perSecond: 50 };

export const gateway = (on: GatewayOptions): Gateway => {
  const up = connections();
  const again = rechecking(up, on.nodes.nodeOf);
  const unauthenticated = new Map<string, Place>();
  const failures = rateLimiter(FAILURES, on.clock.monotonic);
  /** Those that have not shown who they are. */
  const strangers = new Set<WebSocket>();
  let waiting = 0;
  const pace = admission(
    { ...on.clock, activeMs: () => performance.eventLoopUtilization().active },
    on.limits.maxUnauthenticated,
  );
  const server = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false, // what is sealed does not pack, and packing beside secrets leaks them
    maxPayload: MAX_MESSAGE_BYTES,
  });
  const ticking = setInterval(up.tick, TICK_MS);
  ticking.unref();

  const placeOf = (place: string): Place => unauthenticated.get(place) ?? { held: 0, nextAt: 0 };
  const enter = (place: string): ((connected: boolean) => void) => {
    const ended = pace.begin();
    waiting++;
    const here = placeOf(place);
    here.held++;
    unauthenticated.set(place, here);
    let left = false;
    return (connected) => {
      if (left) return;
      left = true;
      ended(connected);
      waiting--;
      here.held--;
      if (here.held === 0) unauthenticated.delete(place);
      if (!connected) failures.take(place);
    };
  };
  /** @throws AegisError */
  const claimsOf = (request: IncomingMessage, place: string): Claimed => {
    if (on.stopping.aborted) throw unavailable('The server is stopping.');
    if (request.headers.origin !== undefined)
      throw new AegisError('access.forbidden', 'Web pages may not connect here: this is for nodes.');
    const { 'x-agent-id': agentId, 'x-agent-public-key': publicKey } = request.headers;
    if (typeof agentId !== 'string' || typeof publicKey !== 'string')
      throw new AegisError(
        'http.malformed',
        'A node that connects sends X-Agent-ID and X-Agent-Public-Key (base64), as docs/channel.md has it.',
      );
    if (up.count() + waiting >= on.limits.maxConnections)
      throw unavailable('The server has as many nodes as it takes.');
    if (waiting >= on.limits.maxUnauthenticated) throw unavailable('Too many nodes connect at this moment.');
    if (placeOf(place).held >= on.limits.maxUnauthenticatedEach)
      throw new AegisError('http.rate_limited', 'Too many connections from this address have not authenticated yet.', {
        retryAfterSec: 1,
      });
    const waitSec = failures.waitSec(place);
    if (waitSec > 0)
      throw new AegisError(
        'http.rate_limited',
        'Too many connections from this address ended before they had authenticated.',
        { retryAfterSec: waitSec },
      );
    return { agentId, publicKey };
  };

  return {
    connections: up,
    waiting: () => waiting,
    upgrade: (request, socket, head, address) => {
      const onError = (): void => {
        socket.destroy();
      };
      socket.on('error', onError);
      const place = addressKey(address);
      let claimed: Claimed;
      try {
        claimed = claimsOf(request, place);
      } catch (error) {
        if (error instanceof AegisError && !on.stopping.aborted)
          on.refused({ agentId: `${request.headers['x-agent-id']}`.slice(0, 128), address, error, node: null });
        refuseUpgrade(socket, error, on.newId());
        return;
      }
      const laterMs = pace.laterMs(placeOf(place));
      if (laterMs !== null) {
        // A fleet that comes back, and nothing for the audit.
        refuseUpgrade(socket, unavailable('Many nodes connect at this moment.', laterMs), on.newId());
        return;
      }
      const leave = enter(place);
      socket.once('close', () => leave(false));
      // Answers a request that is no WebSocket handshake by itself.
      server.handleUpgrade(request, socket, head, (ws: WebSocket) => {
        socket.off('error', onError); // it is the WebSocket's now
        strangers.add(ws);
        ws.once('close', () => strangers.delete(ws));
        connect({
          ...on,
          ws,
          socket,
          claimed,
          address,
          sessionToken: randomBytes(16).toString('base64url'),
          connections: up,
          rechecking: again,
          authenticated: () => {
            strangers.delete(ws);
            leave(true);
          },
        });
      });
    },
    recheck: again.recheck,
    close: async (graceMs) => {
      clearInterval(ticking);
      server.close();
      for (const ws of strangers) ws.terminate(); // nothing was done for them; kept, they would hold up the stop
      const deadline = Date.now() + graceMs;
      for (const connection of [...up.all()]) connection.stop(Math.max(0, deadline - Date.now()));
      await Promise.all([...up.all()].map((connection) => connection.closed));
    },
  };
};

const unavailable = (what: string, laterMs = RETRY_MS): AegisError =>
  new AegisError('http.unavailable', `${what} Connect again in a few seconds.`, {
    retryAfterSec: Math.ceil(laterMs / 1000),
  });

/** In the shape of every other answer. */
const refuseUpgrade = (socket: Duplex, error: unknown, requestId: string): void => {
  const known =
    error instanceof AegisError ? error : new AegisError('http.internal', 'The server failed.', { cause: error });
  const body = JSON.stringify(errorBody(known, requestId));
  const retry = known.retryAfterSec === undefined ? '' : `Retry-After: ${known.retryAfterSec}\r\n`;
  endSocket(
    socket,
    `HTTP/1.1 ${httpStatusOf(known.code)} Refused\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\n${retry}Connection: close\r\n\r\n${body}`,
  );
};
