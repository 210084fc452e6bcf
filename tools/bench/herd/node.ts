import { randomBytes } from 'node:crypto';
import { publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { CLOSE } from '@aegis/protocol/channel/call';
import { makeEphemeral, openAnswer, signRequest } from '@aegis/protocol/channel/handshake';
import { type AuthenticationResponse, CHANNEL_VERSIONS } from '@aegis/protocol/channel/messages';
import { opener, sealer } from '@aegis/protocol/channel/sealing';
import { type Session, session } from '@aegis/protocol/channel/session';
import { socketWire } from '@aegis/protocol/channel/socket-wire';
import type { PollAnswer } from '@aegis/protocol/commands/carrier';
import { AegisError } from '@aegis/protocol/errors';
import { VERSION } from '@aegis/protocol/version';
import type { Link } from '../../../packages/daemon/src/channel/link.ts';
import { linkLoop } from '../../../packages/daemon/src/channel/link-loop.ts';
import { Unreachable } from '../../../packages/daemon/src/platform/http/client.ts';
import { wallClockMs } from '../bench-fleet.ts';
import { reportOf } from '../simulated-node.ts';
import { type HerdServer, herdNode } from './identity.ts';
import { openLightSocket, UpgradeRefused } from './light-socket.ts';

/** One simulated node: the protocol's own handshake, sealing and session over a light socket, and the daemon's own loop for when to connect
 *  again. It waits in the poll as a daemon does, acknowledges, and reports success, signed. */

export type Outcome =
  /** Connected. */
  | 'up'
  /** Told to come later, before or in the handshake. */
  | 'paced'
  /** There was a connection to the server, and no good end. */
  | 'failed'
  /** Nobody listened: the server was down. */
  | 'unreached';
export interface Attempt {
  beganAtMs: number;
  endedAtMs: number;
  outcome: Outcome;
  why: string;
}
export interface HerdNodeEvents {
  attempt(attempt: Attempt): void;
  changed(isUp: boolean): void;
  /** The server has stored the result of an execution. */
  stored(commandId: string, atMs: number): void;
}
export interface HerdOptions {
  server: HerdServer;
  /** Without it, it is connected and asks for nothing. */
  polls: boolean;
  events: HerdNodeEvents;
  signal: AbortSignal;
  /** Shared by all: one timer beats for thousands. */
  ticks: Set<() => void>;
}

const clock = { now: () => Date.now(), monotonic: () => performance.now() };
const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const HANDSHAKE_MS = 15_000;
const POLL_WAIT_SEC = 30;
const POLL_MS = (POLL_WAIT_SEC + 15) * 1000;
const CALL_MS = 30_000;
const AGAIN_MS = 1000;
let ids = 0;

export const runHerdNode = (nth: number, options: HerdOptions): Promise<void> => {
  const { signal } = options;
  let current: Session | null = null;
  const loop = linkLoop({
    open: () => tried(nth, options),
    refreshTrust: async () => false,
    changed: (live) => {
      current = live;
      options.events.changed(live !== null);
      if (live && options.polls) work(nth, live, options, () => current !== live).catch(() => undefined); // the session ended: the next one works on
    },
    clock,
    random: Math.random,
    log: quiet as never,
    signal,
  });
  return loop.done;
};

const tried = async (nth: number, options: HerdOptions): Promise<Link> => {
  const beganAtMs = wallClockMs();
  const told = (outcome: Outcome, why = ''): void =>
    options.events.attempt({ beganAtMs, endedAtMs: wallClockMs(), outcome, why });
  try {
    const link = await openHerdLink(nth, options);
    told('up');
    return link;
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    const paced = error instanceof Unreachable && error.retryAfterMs > 0;
    told(paced ? 'paced' : code === 'ECONNREFUSED' ? 'unreached' : 'failed', `${code} ${error}`);
    if (error instanceof AegisError || error instanceof Unreachable) throw error;
    if (error instanceof UpgradeRefused) throw new Unreachable(error.message, error.retryAfterMs, error);
    throw new Unreachable(String(error), 0, error);
  }
};

const openHerdLink = async (nth: number, { server, ticks }: HerdOptions): Promise<Link> => {
  const { uid, key } = herdNode(nth);
  const public_key = key.publicRaw.toString('base64');
  const socket = await openLightSocket({
    ...server,
    localAddress: `127.0.${1 + (nth % 4)}.${1 + (nth % 250)}`,
    headers: { 'x-agent-id': uid, 'x-agent-public-key': public_key, 'user-agent': `Aegis-Agent/${VERSION}` },
  }).catch((error: unknown) => {
    if (error instanceof UpgradeRefused) throw new Unreachable(error.message, error.retryAfterMs, error);
    throw error;
  });
  const ephemeral = makeEphemeral();
  const request = signRequest(server.fleet, key, {
    agent_id: uid,
    public_key,
    timestamp: Math.floor(Date.now() / 1000),
    nonce: randomBytes(32).toString('base64'),
    versions: [...CHANNEL_VERSIONS],
    ephemeral_key: ephemeral.publicRaw.toString('base64'),
  });
  socket.send(JSON.stringify(request));
  const { promise: ended, resolve: nowEnded } = Promise.withResolvers<AegisError>();
  const { promise: answered, resolve, reject } = Promise.withResolvers<string>();
  let live: Session | null = null;
  socket.listen({
    text: (frame) => (live ? live.take(frame) : resolve(frame)),
    closed: (code) => {
      const reason = new AegisError(code === CLOSE.dismissed ? 'nodes.retired' : 'http.unavailable', `closed ${code}`);
      reject(new Error(`the handshake broke off: ${code}`));
      live?.end(reason);
    },
  });
  const late = setTimeout(() => {
    reject(new Error('no answer to the handshake in time'));
    socket.cut();
  }, HANDSHAKE_MS);
  const answer = JSON.parse(await answered.finally(() => clearTimeout(late))) as AuthenticationResponse;
  if (!answer.success) throw new Unreachable(`refused: ${answer.code}`, answer.retry_after_ms ?? 0);
  const isServerKey = (raw: Buffer): boolean => raw.toString('hex') === server.serverKey;
  const keys = openAnswer({ fleet: server.fleet, isServerKey, ephemeral }, request, answer);
  const { sessionId } = keys;
  const serverKey = publicKeyFromRaw(Buffer.from(answer.server_key, 'base64'));
  const one = session({
    wire: socketWire(socket),
    sealer: sealer({
      key: keys.nodeToServer,
      direction: 'node to server',
      rotation: { messages: answer.rotation_messages, ms: answer.rotation_sec * 1000 },
      clock,
      signing: answer.sign_messages ? { privateKey: key.privateKey, sessionId } : null,
    }),
    opener: opener({
      key: keys.serverToNode,
      direction: 'server to node',
      verifying: answer.sign_messages ? { publicKey: serverKey, sessionId } : null,
    }),
    handlerOf: () => null,
    newId: () => `h${ids++}`,
    clock,
    heartbeatMs: answer.heartbeat_sec * 1000,
    ended: (reason) => {
      ticks.delete(one.tick);
      socket.close(1000);
      nowEnded(reason);
    },
  });
  live = one;
  ticks.add(one.tick);
  await one.notify('hello', { version: VERSION });
  const lastsMs = (answer.expires_at - answer.timestamp) * 1000;
  return { session: one, renewAtMs: clock.monotonic() + lastsMs * 0.9, skewMs: 0, ended, end: one.end };
};

/** Until the session ends. */
const work = async (nth: number, live: Session, { events }: HerdOptions, isOver: () => boolean): Promise<void> => {
  const { key } = herdNode(nth);
  // A server that has more to do than it can is asked again, as a daemon does.
  const ask = async <T>(
    call: string,
    more: { query?: Record<string, unknown>; body?: unknown },
    timeoutMs = CALL_MS,
  ): Promise<T> => {
    for (;;)
      try {
        return (await live.request('commands', { call, ...more }, { timeoutMs })) as T;
      } catch (error) {
        if (isOver() || !(error instanceof AegisError) || error.code !== 'http.unavailable') throw error;
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS * (1 + Math.random())));
      }
  };
  let desired = 0;
  for (let resume = true; ; resume = false) {
    const query = { wait: POLL_WAIT_SEC, desired, ...(resume ? { resume: 'true' } : {}) };
    const { commands, ...told } = await ask<PollAnswer>('pollCommands', { query }, POLL_MS);
    desired = told.desired ?? desired;
    if (commands.length === 0) continue;
    await ask('ackCommands', { body: { ids: commands.map(({ execution_id }) => execution_id) } });
    const reports = commands.map((one) => reportOf(one, key));
    const { results } = await ask<{ results: { state: string }[] }>('pushStatus', { body: { reports } });
    const refused = results.find(({ state }) => state !== 'succeeded');
    if (refused) throw new Error(`a report was refused: ${JSON.stringify(refused)}`);
    for (const { command_id } of commands) events.stored(command_id, wallClockMs());
  }
};
