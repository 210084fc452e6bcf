import * as z from 'zod/mini';
import { endpoint } from '../endpoint.ts';
import { Labels, Site } from '../nodes/node.ts';
import { NextCursor, Page } from '../paging.ts';
import { Envelope } from './dsse.ts';
import { ROLES } from './roles.ts';

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

export const OperatorToken = z.object({
  id: z.string(),
  name: z.string(),
  role: z.enum(ROLES),
  created_at: z.string(),
  expires_at: z.nullable(z.string()),
  revoked_at: z.nullable(z.string()),
});
export type OperatorToken = z.infer<typeof OperatorToken>;
export const NewOperatorToken = z.strictObject({
  name: z.string().check(z.regex(/^[A-Za-z0-9][A-Za-z0-9 ._@:-]{0,127}$/)),
  role: z.enum(ROLES),
  ttl_sec: z.optional(z.int().check(z.minimum(1), z.maximum(MAX_TTL_SEC))),
});
export type NewOperatorToken = z.infer<typeof NewOperatorToken>;
export const listTokens = endpoint({
  id: 'listTokens',
  door: 'api',
  method: 'GET',
  path: '/api/v1/tokens',
  caller: 'admin',
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
  tag,
  summary: 'Revoke a join token at once; nodes that enrolled with it stay',
  params: ById,
  response: JoinTokenInfo,
});
