/** messages: what operators say to nodes on channels of their own, kept until the node has answered. Owns the queue; called by its routes and,
 *  for each connection of a node, by the channel's gateway. Invariant: `delivered` is stored only after the node's answer came over its own
 *  authenticated way, and nothing of a message is readable at rest. It must not know sockets, nor what a message is about. */
import { AegisError } from '@aegis/protocol/errors';
import {
  type AgentStatus,
  type BroadcastAnswer,
  type BroadcastMessage,
  BUILT_IN_CHANNELS,
  isBuiltIn,
  MAX_MESSAGE_TEXT_BYTES,
  type MessageView,
  type SendAnswer,
  type SendMessage,
} from '@aegis/protocol/messages/message';
import * as z from 'zod/mini';
import type { Bus } from '../platform/bus.ts';
import { type Clock, isoTime, isoTimeOrNull } from '../platform/clock.ts';
import type { Log } from '../platform/log.ts';
import type { Within } from '../platform/node-scope.ts';
import type { Tell } from '../platform/told.ts';
import { wakeup } from '../platform/wakeup.ts';
import type { Storage, Tx } from '../tables.ts';
import { attendQueue, type NodeConnection } from './courier.ts';
import { delivery, messageTopic, queueTopic } from './delivery.ts';
import { messagePolls } from './polls.ts';
import { type MessageRow, messagesRepository } from './repository.ts';
import { messageVault } from './vault.ts';
import { endedBy, errorOf, Outcome } from './verdict.ts';

export interface MessageLimits {
  /** Messages that wait for one node. */
  queueSize: number;
  ttlMs: number;
  /** How often a message is given to its node again after no answer came. */
  retries: number;
  answerMs: number;
  /** How long what became of a message can be asked for. */
  keepMs: number;
}
/** A connection at whichever server process. */
export interface ConnectionFacts {
  expiresAtMs: number;
  /** That the node has hooks for. */
  channels: readonly string[];
}
export interface MessageNode {
  uid: string;
  /** Its name. */
  name: string;
}

export interface MessagesOptions {
  storage: Storage;
  /** Of each state that a message takes on. */
  tell: Tell;
  bus: Bus;
  clock: Clock;
  newId(): string;
  random(): number;
  log: Log;
  /** 32 bytes, base64url. */
  secret: string;
  nodes: {
    /** @throws AegisError nodes.unknown_node */
    find(id: string, within: Within): Promise<MessageNode & { state: string; last_seen: string | null }>;
    /** All that are not retired. */
    all(): Promise<MessageNode[]>;
  };
  connections: {
    of(uid: string): Promise<ConnectionFacts | null>;
    uids(): Promise<ReadonlySet<string>>;
  };
  limits: MessageLimits;
}

/** What a connected node is given to take the message before `send` says that it waits. */
const TAKEN_WITHIN_MS = 1000;
/** Wake-ups may be lost. */
const LOOK_AGAIN_MS = 2000;
const SWEEP_ROWS = 500;
const FULL_RETRY_SEC = 30;

export const messagesService = (on: MessagesOptions) => {
  const { bus, clock, nodes, connections, limits } = on;
  const repository = messagesRepository(on.storage, on.tell);
  const vault = messageVault(on.secret);
  const delivering = delivery({ repository, vault, bus, clock });

  const rowOf = (id: string, node: MessageNode, wanted: BroadcastMessage): MessageRow => {
    const now = clock.now();
    const clear = {
      id,
      agent_id: node.uid,
      agent_name: node.name,
      channel: wanted.channel,
      message_type: wanted.message_type,
      created_at: now,
      expires_at: now + (wanted.ttl_sec === undefined ? limits.ttlMs : wanted.ttl_sec * 1000),
    };
    const { text, nonce } = vault.seal('message', clear, wanted.message);
    return {
      ...clear,
      encrypted_payload: text,
      nonce,
      status: 'queued',
      retry_count: 0,
      max_retries: limits.retries,
      processed_at: null,
      error_code: null,
      encrypted_outcome: null,
      outcome_nonce: null,
    };
  };
  /** The row as soon as `done` says so, or as it is after `ms`. */
  const watched = async (
    agentId: string,
    id: string,
    done: (row: MessageRow) => boolean,
    ms: number,
    signal: AbortSignal,
  ): Promise<MessageRow | null> => {
    const own = wakeup();
    const wake = (): void => own.wake();
    signal.addEventListener('abort', wake, { once: true });
    using _subscribed = bus.subscribe(messageTopic(id), wake); // before the first look
    try {
      const until = performance.now() + ms;
      for (;;) {
        const row = (await repository.byId(agentId, id)) ?? null;
        const left = until - performance.now();
        if (!row || done(row) || left <= 0 || signal.aborted) return row;
        await own.wait(Math.min(left, LOOK_AGAIN_MS));
      }
    } finally {
      signal.removeEventListener('abort', wake);
    }
  };
  const endingOf = (row: MessageRow): Pick<SendAnswer, 'reply' | 'encoding' | 'truncated' | 'error'> => {
    if (row.processed_at === null) return {};
    const { encrypted_outcome: text, outcome_nonce: nonce, error_code: code } = row;
    const outcome =
      text === null || nonce === null ? null : z.parse(Outcome, vault.open('outcome', row, { text, nonce }));
    if (code !== null) return { error: errorOf(code, outcome) };
    return outcome && 'reply' in outcome ? outcome : { reply: null };
  };
  const show = (row: MessageRow, name: string): MessageView => ({
    message_id: row.id,
    agent_id: name,
    channel: row.channel,
    message_type: row.message_type,
    state: row.status,
    retries: row.retry_count,
    created_at: isoTime(row.created_at),
    expires_at: isoTime(row.expires_at),
    ended_at: isoTimeOrNull(row.processed_at),
    ...endingOf(row),
  });

  return {
    polls: messagePolls({ repository, delivery: delivering, bus }),

    status: async (id: string, within: Within): Promise<AgentStatus> => {
      const node = await nodes.find(id, within);
      const connection = await connections.of(node.uid);
      return {
        agent_id: node.name,
        connected: connection !== null,
        last_seen: node.last_seen,
        channels: connection ? [...BUILT_IN_CHANNELS, ...connection.channels] : [],
        session_expires: connection ? isoTime(connection.expiresAtMs) : null,
      };
    },

    /** @throws AegisError nodes.unknown_node, nodes.retired, messages.reserved_channel, messages.queue_full, http.too_large */
    send: async (id: string, wanted: SendMessage, within: Within, signal: AbortSignal): Promise<SendAnswer> => {
      requireSendable(wanted);
      const node = await nodes.find(id, within);
      if (node.state === 'retired')
        throw new AegisError('nodes.retired', `The node '${node.name}' is retired: nothing reaches it.`);
      const row = rowOf(on.newId(), node, wanted);
      const full = await repository.add([row], limits.queueSize);
      if (full.size > 0)
        throw new AegisError(
          'messages.queue_full',
          `${limits.queueSize} messages wait for the node '${node.name}' already. Send it when the node has taken some.`,
          { retryAfterSec: FULL_RETRY_SEC },
        );
      bus.publish(queueTopic(node.uid));
      const { timeout_sec } = wanted;
      const connected = (await connections.of(node.uid)) !== null;
      // Behind others of its channel it waits for as long as they take.
      const next = connected && (await repository.headOf(node.uid, row.channel))?.id === row.id;
      if (timeout_sec === undefined && !next && (await repository.byId(node.uid, row.id))?.status === 'queued')
        return { message_id: row.id, status: 'queued' };
      const now =
        (await watched(
          node.uid,
          row.id,
          timeout_sec === undefined ? ({ status }) => status !== 'queued' : ({ processed_at }) => processed_at !== null,
          timeout_sec === undefined ? TAKEN_WITHIN_MS : timeout_sec * 1000,
          signal,
        )) ?? row;
      const answer = { message_id: row.id, status: STATUS[now.status] };
      return timeout_sec === undefined ? answer : { ...answer, state: now.status, ...endingOf(now) };
    },

    /** To every node that is connected at this moment; nothing is kept for the others.
     *  @throws AegisError messages.reserved_channel, http.too_large */
    broadcast: async (wanted: BroadcastMessage): Promise<BroadcastAnswer> => {
      requireSendable(wanted);
      const id = on.newId();
      const connected = await connections.uids();
      const all = await nodes.all();
      const rows = all.filter(({ uid }) => connected.has(uid)).map((node) => rowOf(id, node, wanted));
      const full = await repository.add(rows, limits.queueSize);
      const sent = new Set(rows.map((row) => row.agent_id).filter((uid) => !full.has(uid)));
      for (const uid of sent) bus.publish(queueTopic(uid));
      const names = (of: readonly MessageNode[]): string[] => of.map(({ name }) => name).sort();
      return {
        message_id: id,
        sent_to: names(all.filter(({ uid }) => sent.has(uid))),
        failed: names(all.filter(({ uid }) => !sent.has(uid))),
      };
    },

    /** @throws AegisError nodes.unknown_node, messages.unknown_message, messages.unreadable */
    show: async (id: string, messageId: string, within: Within): Promise<MessageView> => {
      const node = await nodes.find(id, within);
      const row = await repository.byId(node.uid, messageId);
      if (!row)
        throw new AegisError(
          'messages.unknown_message',
          `There is no message '${messageId}' for the node '${node.name}'; what ended is forgotten after a while.`,
        );
      return show(row, node.name);
    },

    /** A node is connected to this process. Call the result once, when it is not any more. */
    connected: (connection: NodeConnection): (() => void) =>
      attendQueue(connection, {
        repository,
        delivery: delivering,
        bus,
        log: on.log,
        random: on.random,
        answerMs: limits.answerMs,
      }),

    nodeRetired: (tx: Tx, uid: string): Promise<void> =>
      repository.endAll(tx, uid, endedBy('failed', 'nodes.retired'), clock.now()),

    /** One turn of the loop. */
    sweep: async (): Promise<void> => {
      const now = clock.now();
      const times = { now, sentBefore: now - limits.answerMs, endedBefore: now - limits.keepMs };
      while ((await repository.sweep(times, SWEEP_ROWS)) >= SWEEP_ROWS);
    },
  };
};
export type MessagesService = ReturnType<typeof messagesService>;

/** The seed's words for our states. */
const STATUS: Readonly<Record<MessageRow['status'], SendAnswer['status']>> = {
  queued: 'queued',
  sent: 'sent',
  delivered: 'sent',
  failed: 'failed',
  expired: 'failed',
};

const requireSendable = ({ channel, message }: BroadcastMessage): void => {
  if (isBuiltIn(channel))
    throw new AegisError(
      'messages.reserved_channel',
      `The channel '${channel}' is Aegis' own. Choose another name; ${BUILT_IN_CHANNELS.join(', ')} are taken.`,
    );
  if (Buffer.byteLength(JSON.stringify(message)) > MAX_MESSAGE_TEXT_BYTES)
    throw new AegisError(
      'http.too_large',
      `A message has at most ${MAX_MESSAGE_TEXT_BYTES} bytes of JSON. Send it in pieces, or fetch what is large on the node.`,
    );
};
