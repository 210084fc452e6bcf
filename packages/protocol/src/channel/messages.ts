import * as z from 'zod/mini';
import { Base64Key, Base64Signature } from '../nodes/enrolment.ts';
import { NodeName } from '../nodes/node.ts';
import { isBase64 } from './base64.ts';

/** channel: what travels on a node's WebSocket: one handshake frame each way, then sealed messages. Server and daemon both read it here;
 *  docs/channel.md says the same for other languages. Every frame is JSON text in UTF-8. Must not: know what a message is about. */

/** Newest first. A version names the handshake, the sealing and the messages' shape together. */
export const CHANNEL_VERSIONS = [1] as const;
export const MAX_HANDSHAKE_BYTES = 16 * 1024;
/** Of a frame: a payload of a mebibyte, sealed and in base64, with its fields. */
export const MAX_MESSAGE_BYTES = 2 * 1024 * 1024;

const Version = z.int().check(z.minimum(1), z.maximum(65_535));
const Seconds = z.int().check(z.minimum(0), z.maximum(2 ** 40));

/** The node's one frame before it is known. Unknown fields are ignored, as in the seed, and grant nothing: they are not signed. */
export const AuthenticationRequest = z.object({
  /** The node's uid, or the name under which it enrolled. */
  agent_id: NodeName,
  public_key: Base64Key,
  /** Unix time in seconds. */
  timestamp: Seconds,
  nonce: Base64Key,
  /** By the node's key, over `nodeTranscript`. */
  signature: Base64Signature,
  versions: z.array(Version).check(z.minLength(1), z.maxLength(16)),
  /** X25519, made for this connection. */
  ephemeral_key: Base64Key,
});
export type AuthenticationRequest = z.infer<typeof AuthenticationRequest>;

export const AcceptedAuthentication = z.object({
  success: z.literal(true),
  /** The server's X25519 key, made for this connection (the seed's name). */
  backend_key: Base64Key,
  /** Names the session in logs and grants nothing. */
  session_token: z.string().check(z.minLength(1), z.maxLength(128)),
  /** Unix time in seconds: the node connects anew before. */
  expires_at: Seconds,
  version: Version,
  server_key: Base64Key,
  nonce: Base64Key,
  /** Unix time in seconds, by the server's clock. */
  timestamp: Seconds,
  /** Every message carries its sender's Ed25519 signature. */
  sign_messages: z.boolean(),
  /** Each direction takes its next key after so many messages or seconds, whichever comes first. */
  rotation_messages: z.int().check(z.minimum(1), z.maximum(2 ** 24)),
  rotation_sec: z.int().check(z.minimum(1), z.maximum(2 ** 31)),
  /** Whoever heard nothing for twice as long gives the connection up. */
  heartbeat_sec: z.int().check(z.minimum(1), z.maximum(3600)),
  /** By the server's key, over `serverTranscript`. */
  signature: Base64Signature,
});
export type AcceptedAuthentication = z.infer<typeof AcceptedAuthentication>;

/** Nobody signs a refusal: it may delay a node, which any network can, and lets it do nothing else. */
export const RefusedAuthentication = z.object({
  success: z.literal(false),
  backend_key: z._default(z.string(), ''),
  session_token: z._default(z.string(), ''),
  expires_at: z._default(z.int(), 0),
  message: z.string().check(z.maxLength(1024)),
  code: z.optional(z.string().check(z.maxLength(64))),
  /** Not before so long, with jitter. */
  retry_after_ms: z.optional(z.int().check(z.minimum(0))),
});
export type RefusedAuthentication = z.infer<typeof RefusedAuthentication>;
export const AuthenticationResponse = z.discriminatedUnion('success', [AcceptedAuthentication, RefusedAuthentication]);
export type AuthenticationResponse = z.infer<typeof AuthenticationResponse>;

export const MESSAGE_TYPES = ['request', 'response', 'event'] as const;
export const MessageType = z.enum(MESSAGE_TYPES);
export type MessageType = z.infer<typeof MessageType>;
export const ChannelName = z
  .string()
  .check(z.regex(/^[a-z][a-z0-9._-]{0,63}$/, 'a channel: a letter, then letters, digits, . _ - (at most 64)'));

const MessageId = z.string().check(z.regex(/^[0-9a-zA-Z-]{1,64}$/, 'an id of at most 64 letters, digits and -'));
const Count = z.int().check(z.minimum(0));
const Base64 = z.string().check(z.refine(isBase64, 'base64'));

/** Its clear fields are all authenticated with the payload. Unknown ones are refused: nobody could vouch for them. */
export const SecureMessage = z.strictObject({
  id: MessageId,
  type: MessageType,
  channel: ChannelName,
  /** base64(ciphertext | 16 bytes of tag) of JSON. */
  payload: Base64,
  /** base64(4 zero bytes | `seq` as u64, big-endian). */
  nonce: z.string().check(z.regex(/^[A-Za-z0-9+/]{16}$/, '12 bytes in base64')),
  /** Empty unless messages are signed. */
  signature: z.union([z.literal(''), Base64Signature]),
  /** Unix time in seconds, by the sender's clock. */
  timestamp: Seconds,
  /** From 0 in each direction, up by one with each message, through all epochs. */
  seq: Count,
  /** How often this direction took its next key. */
  epoch: Count,
});
export type SecureMessage = z.infer<typeof SecureMessage>;
