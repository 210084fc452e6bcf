/** messages: what operators say to nodes on channels of their own. Server, daemon and CLI read the shapes here; docs/messages.md says what is
 *  promised of them. Invariant: the built-in channels carry what nodes call (channel/call.ts) and never such a message.
 *  Must not: know how a message travels. */
import * as z from 'zod/mini';
import { ChannelName, MessageType } from '../channel/messages.ts';

export const BUILT_IN_CHANNELS = [
  'hello',
  'commands',
  'logs',
  'artifacts',
  'backups',
  'telemetry',
  'heartbeat',
] as const;
export const isBuiltIn = (channel: string): boolean => (BUILT_IN_CHANNELS as readonly string[]).includes(channel);

/** Of a message as JSON text, in bytes. */
export const MAX_MESSAGE_TEXT_BYTES = 256 * 1024;
/** Of a reply, in bytes: what a hook may write at most. */
export const MAX_REPLY_BYTES = 256 * 1024;
/** Channels that one node has hooks for. */
export const MAX_NODE_CHANNELS = 32;

const Time = z.string();

/** queued → sent → delivered, failed or expired. `sent`: a node was given it, and has not answered. */
export const MessageState = z.enum(['queued', 'sent', 'delivered', 'failed', 'expired']);
export type MessageState = z.infer<typeof MessageState>;

const Wanted = {
  channel: ChannelName,
  message: z.record(z.string(), z.unknown()),
  /** What the node's hook is told that it is; each is answered in the same way. */
  message_type: z._default(MessageType, 'request'),
  /** Not given to the node any more after so long; the server's setting where absent. */
  ttl_sec: z.optional(z.int().check(z.minimum(1), z.maximum(7 * 86_400))),
};
export const SendMessage = z.strictObject({
  ...Wanted,
  /** Waits so long for the node's reply, which is then in the answer. */
  timeout_sec: z.optional(z.int().check(z.minimum(1), z.maximum(300))),
});
export type SendMessage = z.infer<typeof SendMessage>;
export const BroadcastMessage = z.strictObject(Wanted);
export type BroadcastMessage = z.infer<typeof BroadcastMessage>;

export const MessageError = z.object({ code: z.string(), message: z.string() });
export type MessageError = z.infer<typeof MessageError>;

/** What a node answers to a message. */
export const MessageReply = z.strictObject({
  /** What the hook wrote: text, or base64 with `encoding`. */
  reply: z.nullable(z.string().check(z.maxLength(2 * MAX_REPLY_BYTES))),
  encoding: z.optional(z.literal('base64')),
  /** The hook wrote more than the node keeps. */
  truncated: z.optional(z.literal(true)),
});
export type MessageReply = z.infer<typeof MessageReply>;

const Ended = {
  reply: z.optional(z.nullable(z.string())),
  encoding: z.optional(z.literal('base64')),
  truncated: z.optional(z.literal(true)),
  error: z.optional(MessageError),
};

/** The first two fields are all there is unless `timeout_sec` was asked for. */
export const SendAnswer = z.object({
  message_id: z.string(),
  status: z.enum(['sent', 'queued', 'failed']),
  state: z.optional(MessageState),
  ...Ended,
});
export type SendAnswer = z.infer<typeof SendAnswer>;

export const BroadcastAnswer = z.object({
  message_id: z.string(),
  sent_to: z.array(z.string()),
  failed: z.array(z.string()),
});
export type BroadcastAnswer = z.infer<typeof BroadcastAnswer>;

export const AgentStatus = z.object({
  agent_id: z.string(),
  connected: z.boolean(),
  last_seen: z.nullable(Time),
  /** On which the node can be spoken to and speaks at this moment; none without a connection. */
  channels: z.array(z.string()),
  session_expires: z.nullable(Time),
});
export type AgentStatus = z.infer<typeof AgentStatus>;

/** A message and what became of it. */
export const MessageView = z.object({
  message_id: z.string(),
  agent_id: z.string(),
  channel: z.string(),
  message_type: MessageType,
  state: MessageState,
  /** How often it was given to the node again because no answer came. */
  retries: z.int(),
  created_at: Time,
  expires_at: Time,
  ended_at: z.nullable(Time),
  ...Ended,
});
export type MessageView = z.infer<typeof MessageView>;

/** A message on its way to a node: the body of a request on its channel, and, with `channel`, an item of a poll's answer. */
export const GivenMessage = z.object({
  /** The node's means against doubles: the same message may come more than once. */
  message_id: z.string().check(z.regex(/^[0-9a-zA-Z-]{1,64}$/)),
  message_type: MessageType,
  message: z.record(z.string(), z.unknown()),
  expires_at: z.iso.datetime(),
});
export type GivenMessage = z.infer<typeof GivenMessage>;
export const PolledMessage = z.object({ channel: ChannelName, ...GivenMessage.shape });
export type PolledMessage = z.infer<typeof PolledMessage>;
