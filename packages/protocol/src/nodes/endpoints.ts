import * as z from 'zod/mini';
import { Envelope } from '../access/dsse.ts';
import { endpoint } from '../endpoint.ts';
import { NextCursor, Page } from '../paging.ts';
import {
  RegisterComplete,
  RegisterCompleteAnswer,
  RegisterInit,
  RegisterInitAnswer,
  RegisterKeyless,
  RegisterKeylessAnswer,
  TokenRequest,
} from './enrolment.ts';
import { Labels, Node, NodeStatus, Site } from './node.ts';

const tag = 'nodes';
const ById = z.object({ id: z.string().check(z.maxLength(128)) });

const NodeFilters = {
  site: z.optional(z.string()),
  status: z.optional(NodeStatus),
  capability: z.optional(z.string()),
  os: z.optional(z.string()),
  container_engine: z.optional(z.string()),
  /** `key=value`, or `key` alone for "has this label". */
  label: z.optional(z.string()),
  ...Page,
};
export const NodeQuery = z.object(NodeFilters);
export type NodeQuery = z.infer<typeof NodeQuery>;
export const NodeList = z.object({ agents: z.array(Node), total: z.int(), next_cursor: NextCursor });

export const registerInit = endpoint({
  id: 'registerInit',
  door: 'actions',
  method: 'POST',
  path: '/agents/register/init',
  caller: 'anyone',
  tag,
  summary: 'Begin enrolment: the server proves who it is before the node says anything more',
  body: RegisterInit,
  response: RegisterInitAnswer,
});
export const registerComplete = endpoint({
  id: 'registerComplete',
  door: 'actions',
  method: 'POST',
  path: '/agents/register/complete',
  caller: 'anyone',
  tag,
  summary: 'Complete enrolment by proof of the node key and of the join token; a repeat answers as the first did',
  body: RegisterComplete,
  response: RegisterCompleteAnswer,
});
export const renewToken = endpoint({
  id: 'renewToken',
  door: 'actions',
  method: 'POST',
  path: '/agents/token',
  caller: 'anyone',
  tag,
  summary: 'A fresh node token against a signature of the node key',
  body: TokenRequest,
  response: RegisterCompleteAnswer,
});
export const listAgents = endpoint({
  id: 'listAgents',
  door: 'actions',
  method: 'GET',
  path: '/agents',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'Nodes, filtered and in pages',
  query: NodeQuery,
  response: NodeList,
});
export const showAgent = endpoint({
  id: 'showAgent',
  door: 'actions',
  method: 'GET',
  path: '/agents/{id}',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'One node by uid or name',
  params: ById,
  response: Node,
});
export const registerKeyless = endpoint({
  id: 'registerKeyless',
  door: 'actions',
  method: 'POST',
  path: '/v1/agents/register',
  // The service decides: a join token as Bearer, an admin, or the dev mode.
  caller: 'anyone',
  tag,
  summary: 'Register a keyless poller (join token as Bearer, or admin)',
  body: RegisterKeyless,
  response: RegisterKeylessAnswer,
});

export const apiListNodes = endpoint({
  id: 'apiListNodes',
  door: 'api',
  method: 'GET',
  path: '/api/v1/agents',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'Nodes, filtered and in pages',
  query: NodeQuery,
  response: NodeList,
});
export const apiShowNode = endpoint({
  id: 'apiShowNode',
  door: 'api',
  method: 'GET',
  path: '/api/v1/agents/{id}',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'One node by uid or name',
  params: ById,
  response: Node,
});
export const NodePatch = z.strictObject({
  labels: z.optional(Labels),
  site: z.optional(z.nullable(Site)),
  maintenance: z.optional(z.boolean()),
});
export type NodePatch = z.infer<typeof NodePatch>;
export const apiPatchNode = endpoint({
  id: 'apiPatchNode',
  door: 'api',
  method: 'PATCH',
  path: '/api/v1/agents/{id}',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: 'Set labels (replaced as a whole), site or maintenance',
  params: ById,
  body: NodePatch,
  response: Node,
});
export const apiRetireNode = endpoint({
  id: 'apiRetireNode',
  door: 'api',
  method: 'DELETE',
  path: '/api/v1/agents/{id}',
  caller: 'admin',
  scope: 'nodes',
  tag,
  summary: 'Retire a node: its key and token stop working, its queued commands are cancelled, its history stays',
  params: ById,
  response: Node,
});

const deactivation = <const W extends 'deactivate' | 'activate'>(what: W, summary: string) =>
  endpoint({
    id: `${what}Node`,
    door: 'api',
    method: 'POST',
    path: `/api/v1/agents/{id}/${what}`,
    caller: 'operator',
    scope: 'nodes',
    tag,
    summary,
    params: ById,
    response: Node,
  });
export const deactivateNode = deactivation(
  'deactivate',
  "Refuse a node's credentials from now on, until it is activated",
);
export const activateNode = deactivation('activate', "Take a node's credentials again");

const health = (path: string) =>
  endpoint({
    id: path === '/healthz' ? 'healthz' : 'health',
    door: 'every',
    method: 'GET',
    path,
    caller: 'anyone',
    tag: 'health',
    summary: 'Liveness and readiness; 503 names the failing part',
    response: z.object({ status: z.enum(['healthy', 'unhealthy']), timestamp: z.string(), version: z.string() }),
  });
export const healthz = health('/healthz');
export const healthLong = health('/health');

/** Everything that this node is to obey as desired state, of all domains: it holds what it understands. */
export const nodeDesired = endpoint({
  id: 'nodeDesired',
  door: 'agent-svc',
  method: 'GET',
  path: '/v1/desired',
  caller: 'node',
  channel: 'artifacts',
  tag,
  summary: "A node's desired state: signed directives, tombstones that it has not confirmed included",
  response: z.object({
    directives: z.array(Envelope),
    /** The operators' own of the same, where they signed any. */
    operator_directives: z.optional(z.array(Envelope)),
    /** The desired-state revision that this answer shows. */
    revision: z.int(),
    trust_version: z.int(),
  }),
});

export const WishKind = z.enum(['artifacts.assign', 'backups.config']);
export type WishKind = z.infer<typeof WishKind>;
/** One piece of a node's desired state, as its server would sign it. */
export const NodeWish = z.object({
  /** Never one that a node would run: what operators sign here is shown as a wish. */
  kind: WishKind,
  object_id: z.string(),
  generation: z.int(),
  body: z.unknown(),
  /** The operators' own directive of this very wish, where there is one. */
  operator_directive: z.nullable(Envelope),
});
export type NodeWish = z.infer<typeof NodeWish>;
export const showWishes = endpoint({
  id: 'showWishes',
  door: 'api',
  method: 'GET',
  path: '/api/v1/agents/{id}/desired',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: "A node's desired state as it stands, for operators to sign",
  params: ById,
  response: z.object({ node_uid: z.uuid(), node: z.string(), fleet: z.string(), wishes: z.array(NodeWish) }),
});
export const signWishes = endpoint({
  id: 'signWishes',
  door: 'api',
  method: 'POST',
  path: '/api/v1/agents/{id}/desired',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: "Operators' own signatures of a node's desired state as it stands",
  params: ById,
  body: z.strictObject({ directives: z.array(Envelope).check(z.minLength(1), z.maxLength(100)) }),
  response: z.object({ signed: z.int() }),
});
