import * as z from 'zod/mini';
import { endpoint } from '../endpoint.ts';
import { Labels, Site } from '../nodes/node.ts';
import { NextCursor, Page } from '../paging.ts';
import { Envelope } from './dsse.ts';
import { ROLES } from './roles.ts';
import { Scope } from './scope.ts';
import { KeyScope } from './trust-bundle.ts';

const tag = 'access';
const ById = z.object({ id: z.string().check(z.maxLength(64)) });
const MAX_TTL_SEC = 10 * 366 * 24 * 3600;

export const showTrust = endpoint({
  id: 'showTrust',
  door: 'api',
  method: 'GET',
  path: '/api/v1/trust',
  caller: 'anyone',
  tag,
  summary: 'The trust bundle, signed by the root',
  response: z.object({ trust_bundle: Envelope, root_fingerprint: z.string() }),
});

/** A key that the fleet's nodes trust, as the trust bundle lists it. */
export const TrustedKey = z.object({
  /** Hex SHA-256 of the raw public key. */
  keyid: z.string(),
  /** As minisign prints it; null for a key without one. */
  minisign_id: z.nullable(z.string()),
  name: z.string(),
  person: z.nullable(z.string()),
  usage: z.array(z.string()),
  /** What an operator's key may order, and for whom; null: anything. */
  scope: z.nullable(KeyScope),
  /** When a server's key that is being replaced ends. */
  until: z.nullable(z.string()),
  state: z.enum(['active', 'revoked']),
  /** Base64 of the 32 bytes. */
  public_key: z.string(),
});
export type TrustedKey = z.infer<typeof TrustedKey>;
const Title = z
  .string()
  .check(z.regex(/^[\p{L}\p{N}][\p{L}\p{N} ._@:+-]{0,127}$/u, '1 to 128 letters, digits, spaces and . _ @ : + -'));
export const NewTrustedKey = z.strictObject({
  /** The text of a .pub file of minisign's, its second line alone, or the base64 of an Ed25519 key's 32 bytes. */
  public_key: z.string().check(z.minLength(1), z.maxLength(4096)),
  name: Title,
  person: z.optional(Title),
  usage: z.array(z.enum(['operate', 'artifacts', 'release'])).check(z.minLength(1), z.maxLength(8)),
  scope: z.optional(KeyScope),
});
export type NewTrustedKey = z.infer<typeof NewTrustedKey>;
export const listKeys = endpoint({
  id: 'listKeys',
  door: 'api',
  method: 'GET',
  path: '/api/v1/keys',
  caller: 'viewer',
  scope: 'none',
  tag,
  summary: 'The keys that nodes trust, revoked ones included',
  query: z.object({ ...Page }),
  response: z.object({ items: z.array(TrustedKey), trust_version: z.int(), next_cursor: NextCursor }),
});
export const addKey = endpoint({
  id: 'addKey',
  door: 'api',
  method: 'POST',
  path: '/api/v1/keys',
  caller: 'admin',
  scope: 'fleet',
  tag,
  summary: 'Let a key sign orders or artifacts; the root key signs a new trust bundle',
  body: NewTrustedKey,
  response: TrustedKey,
  status: 201,
});
export const revokeKey = endpoint({
  id: 'revokeKey',
  door: 'api',
  method: 'POST',
  path: '/api/v1/keys/{id}/revoke',
  caller: 'admin',
  scope: 'fleet',
  tag,
  summary: 'Revoke a key for good, by its key id or by the id that minisign prints',
  params: ById,
  response: TrustedKey,
});

export const OperatorToken = z.object({
  id: z.string(),
  name: z.string(),
  role: z.enum(ROLES),
  created_at: z.string(),
  expires_at: z.nullable(z.string()),
  revoked_at: z.nullable(z.string()),
  /** Only the nodes that this selector means exist for it; null: the whole fleet. */
  scope: z.nullable(z.string()),
});
export type OperatorToken = z.infer<typeof OperatorToken>;
export const NewOperatorToken = z.strictObject({
  name: z.string().check(z.regex(/^[A-Za-z0-9][A-Za-z0-9 ._@:-]{0,127}$/)),
  role: z.enum(ROLES),
  ttl_sec: z.optional(z.int().check(z.minimum(1), z.maximum(MAX_TTL_SEC))),
  scope: z.optional(z.nullable(Scope)),
});
export type NewOperatorToken = z.infer<typeof NewOperatorToken>;
export const listTokens = endpoint({
  id: 'listTokens',
  door: 'api',
  method: 'GET',
  path: '/api/v1/tokens',
  caller: 'admin',
  scope: 'fleet',
  tag,
  summary: 'Operator tokens, without their secrets',
  query: z.object({ ...Page }),
  response: z.object({ items: z.array(OperatorToken), next_cursor: NextCursor }),
});
export const createToken = endpoint({
  id: 'createToken',
  door: 'api',
  method: 'POST',
  path: '/api/v1/tokens',
  caller: 'admin',
  scope: 'fleet',
  tag,
  summary: 'Make an operator token; its text is shown this once',
  body: NewOperatorToken,
  response: z.object({ ...OperatorToken.shape, token: z.string() }),
  status: 201,
});
export const revokeToken = endpoint({
  id: 'revokeToken',
  door: 'api',
  method: 'DELETE',
  path: '/api/v1/tokens/{id}',
  caller: 'admin',
  scope: 'fleet',
  tag,
  summary: 'Revoke an operator token at once',
  params: ById,
  response: OperatorToken,
});

export const JoinTokenInfo = z.object({
  id: z.string(),
  uses: z.int(),
  used: z.int(),
  site: z.nullable(z.string()),
  labels: Labels,
  created_at: z.string(),
  expires_at: z.string(),
  revoked_at: z.nullable(z.string()),
});
export type JoinTokenInfo = z.infer<typeof JoinTokenInfo>;
export const NewJoinToken = z.strictObject({
  ttl_sec: z._default(z.int().check(z.minimum(1), z.maximum(MAX_TTL_SEC)), 3600),
  uses: z._default(z.int().check(z.minimum(1), z.maximum(1_000_000)), 1),
  /** Given to every node that enrols with it, over what the node says. */
  site: z.optional(Site),
  labels: z.optional(Labels),
});
export type NewJoinToken = z.infer<typeof NewJoinToken>;
export const listJoinTokens = endpoint({
  id: 'listJoinTokens',
  door: 'api',
  method: 'GET',
  path: '/api/v1/join-tokens',
  caller: 'admin',
  scope: 'fleet',
  tag,
  summary: 'Join tokens, without their secrets',
  query: z.object({ ...Page }),
  response: z.object({ items: z.array(JoinTokenInfo), next_cursor: NextCursor }),
});
export const createJoinToken = endpoint({
  id: 'createJoinToken',
  door: 'api',
  method: 'POST',
  path: '/api/v1/join-tokens',
  caller: 'admin',
  scope: 'fleet',
  tag,
  summary: 'Make a join token; its text is shown this once',
  body: NewJoinToken,
  response: z.object({ ...JoinTokenInfo.shape, join_token: z.string() }),
  status: 201,
});
export const revokeJoinToken = endpoint({
  id: 'revokeJoinToken',
  door: 'api',
  method: 'DELETE',
  path: '/api/v1/join-tokens/{id}',
  caller: 'admin',
  scope: 'fleet',
  tag,
  summary: 'Revoke a join token at once; nodes that enrolled with it stay',
  params: ById,
  response: JoinTokenInfo,
});
