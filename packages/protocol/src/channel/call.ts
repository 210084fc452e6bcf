import * as z from 'zod/mini';
import { MAX_NODE_CHANNELS } from '../messages/message.ts';
import { ChannelName } from './messages.ts';

/** Where a server takes channels. */
export const CHANNEL_PATH = '/ws/agent';

/** What a node asks for on a built-in channel: an endpoint of the protocol that says on which channel it is served (`Endpoint.channel`), with
 *  what would stand in its path, query and body over HTTP. The answer is the endpoint's response. So there is one description of what a node
 *  may ask for, and one set of rules, whichever way it comes. */
export const Call = z.strictObject({
  /** The endpoint's id. */
  call: z.string().check(z.minLength(1), z.maxLength(64)),
  params: z.optional(z.record(z.string(), z.string())),
  query: z.optional(z.record(z.string(), z.union([z.string(), z.number()]))),
  /** JSON; of an endpoint that takes raw bytes: base64 text. */
  body: z.optional(z.unknown()),
});
export type Call = z.infer<typeof Call>;

/** After the handshake, the node's first message, an event on `hello`: only now does the server count it as connected. */
export const Hello = z.looseObject({
  version: z.string().check(z.maxLength(64)),
  /** On which operators can say something to it, beside the built-in ones; absent: it does not say, and answers each. */
  channels: z.optional(z.array(ChannelName).check(z.maxLength(MAX_NODE_CHANNELS))),
});
export type Hello = z.infer<typeof Hello>;

/** WebSocket close codes (RFC 6455, section 7.4.2: 4000 and on are ours) and what a node does then. */
export const CLOSE = {
  /** The same node connected anew: this connection is the older one. */
  superseded: 4001,
  /** Its time is over: connect anew at once. */
  expired: 4002,
  /** The handshake was refused; the answer said why. */
  refused: 4003,
  /** What came was not of the protocol, or not authentic: connect anew. */
  broken: 4004,
  /** Nothing was heard for too long. */
  silent: 4005,
  /** The node is retired or deactivated here. */
  dismissed: 4006,
  /** The server stops: connect anew after a pause. */
  stopping: 1012,
} as const;
