import { createHmac } from 'node:crypto';
import * as z from 'zod/mini';
import { Envelope } from '../access/dsse.ts';
import { Attrs, Capabilities, Labels, NodeName, Site } from './node.ts';

/** Enrolment: two calls, both bound to one transcript, so that neither side can be talked into another's keys. */

export const Base64Key = z.string().check(z.regex(/^[A-Za-z0-9+/]{43}=$/, '32 bytes in base64'));
export const Base64Signature = z.string().check(z.regex(/^[A-Za-z0-9+/]{86}==$/, '64 bytes in base64'));
const Base64Mac = Base64Key;

export const RegisterInit = z.object({
  token_id: z.optional(z.string().check(z.maxLength(64))),
  host_id: NodeName,
  public_key: Base64Key,
  sealing_key: z.optional(Base64Key),
  attrs: z.optional(Attrs),
  capabilities: z.optional(Capabilities),
  site: z.optional(Site),
  labels: z.optional(Labels),
});
export type RegisterInit = z.infer<typeof RegisterInit>;

export const RegisterInitAnswer = z.object({
  registration_id: z.uuid(),
  challenge: Base64Key,
  expires_at: z.string(),
  trust_bundle: Envelope,
  server_key: Base64Key,
  /** By the server key, over `enrolmentTranscript('server', …)`. */
  signature: Base64Signature,
});
export type RegisterInitAnswer = z.infer<typeof RegisterInitAnswer>;

export const RegisterComplete = z.object({
  registration_id: z.uuid(),
  token_mac: z.optional(Base64Mac),
  signature: Base64Signature,
});
export type RegisterComplete = z.infer<typeof RegisterComplete>;

export const RegisterCompleteAnswer = z.object({ agent_uid: z.uuid(), token: z.string(), expires_at: z.string() });
export type RegisterCompleteAnswer = z.infer<typeof RegisterCompleteAnswer>;

export const TokenRequest = z.object({
  agent_uid: z.uuid(),
  /** RFC 3339; within 5 minutes of the server's clock. */
  timestamp: z.iso.datetime(),
  nonce: Base64Key,
  signature: Base64Signature,
  /** What the node says of itself now (kernel, version, …), in place of what it said before; absent: as before. */
  attrs: z.optional(Attrs),
  capabilities: z.optional(Capabilities),
});
export type TokenRequest = z.infer<typeof TokenRequest>;

/** The keyless registration of seed 002. */
export const RegisterKeyless = z.object({ node_id: NodeName, attrs: z.optional(Attrs) });
export const RegisterKeylessAnswer = z.object({ node_id: z.string(), token: z.string() });

/** Items joined, each prefixed by its length as u32 big-endian: no two different lists give the same bytes. */
export const lengthPrefixed = (items: readonly (string | Uint8Array)[]): Buffer =>
  Buffer.concat(
    items.flatMap((item) => {
      const bytes = typeof item === 'string' ? Buffer.from(item, 'utf8') : item;
      const length = Buffer.alloc(4);
      length.writeUInt32BE(bytes.length);
      return [length, bytes];
    }),
  );

export interface EnrolmentFacts {
  fleet: string;
  rootFingerprint: string;
  /** Raw 32 bytes each. */
  serverKey: Uint8Array;
  challenge: Uint8Array;
  registrationId: string;
  init: RegisterInit;
}

/** What both sides sign. `by` separates the two signatures: "aegis-enrol-1" for the node (as the contract has it) and its MAC,
 *  "aegis-enrol-1-server" for the server. Labels are one item: sorted `k=v`, joined by line feeds. */
export const enrolmentTranscript = (by: 'node' | 'server', facts: EnrolmentFacts): Buffer =>
  lengthPrefixed([
    by === 'node' ? 'aegis-enrol-1' : 'aegis-enrol-1-server',
    facts.fleet,
    facts.rootFingerprint,
    facts.serverKey,
    facts.registrationId,
    facts.challenge,
    facts.init.host_id,
    Buffer.from(facts.init.public_key, 'base64'),
    Buffer.from(facts.init.sealing_key ?? '', 'base64'),
    facts.init.site ?? '',
    Object.entries(facts.init.labels ?? {})
      .map(([key, value]) => `${key}=${value}`)
      .sort()
      .join('\n'),
  ]);

/** HMAC-SHA256 under the join token's secret (its 32 decoded bytes) over the node's transcript. */
export const joinTokenMac = (secret: string, transcript: Uint8Array): Buffer =>
  createHmac('sha256', Buffer.from(secret, 'base64url')).update(transcript).digest();

/** What a node signs to get a fresh token. */
export const tokenRequestTranscript = (
  fleet: string,
  request: Pick<TokenRequest, 'agent_uid' | 'timestamp' | 'nonce'>,
): Buffer =>
  lengthPrefixed(['aegis-token-1', fleet, request.agent_uid, request.timestamp, Buffer.from(request.nonce, 'base64')]);
