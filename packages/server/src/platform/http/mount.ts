import type { IncomingHttpHeaders } from 'node:http';
import { type Caller, type Role, roleAllows } from '@aegis/protocol/access/roles';
import type { Door, Endpoint } from '@aegis/protocol/endpoint';
import { AegisError, errorBody, httpStatusOf } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Log } from '../log.ts';
import type { NodeScope, Within } from '../node-scope.ts';
import type { Actor, NodeActor } from './actor.ts';
import { type AuditHook, type CallRecord, isRefusal } from './audit-hook.ts';
import { type BodyBudget, type BodyLease, countedBody, declaredBytes } from './body-budget.ts';
import { decode } from './decode.ts';
import { asShown } from './failures.ts';
import {
  ANYONES_BODY_LIMIT_BYTES,
  ANYONES_MAX_VALUES,
  BODY_LIMIT_BYTES,
  parseJsonBody,
  unpackBody,
} from './json-body.ts';
import { boundaryOf, parseMultipart } from './multipart.ts';
import { addressKey, type RateLimiter } from './rate-limit.ts';
import type { Route, RouteContext } from './route.ts';

/** Mounts routes on a Fastify instance: who may call is settled before a byte of the body is read, then decoding by the
 *  endpoint's schemas, then the handler, then the answer. Nothing gets past without all four. */

/** What authentication may look at. */
export interface RequestFacts {
  readonly method: string;
  readonly headers: IncomingHttpHeaders;
  /** Names and values as sent, repeated ones included. */
  readonly rawHeaders: readonly string[];
  readonly remoteAddress: string;
  /** Whether a keyless agent's API key counts. */
  readonly agentKey: boolean;
}
/** The caller, or null when the request carries no credential.
 *  @throws AegisError access.unauthenticated for a credential that is not good */
export type Authenticate = (request: RequestFacts) => Promise<Actor | null>;

/** By address, but for `token` (of an operator) and `agent` (with an API key). Nodes that authenticated are not counted: many share an address. */
export interface CallerLimits {
  enrolment: RateLimiter;
  failedAuth: RateLimiter;
  agent: RateLimiter;
  address: RateLimiter;
  token: RateLimiter;
}

export interface MountOptions {
  authenticate: Authenticate;
  /** What the scope of a token means. @throws AegisError for what is no scope */
  scopeOf: (text: string) => NodeScope;
  /** Told of each node's request, when it has been admitted; what it gives back is called when that request is over. */
  attending: (node: NodeActor, endpoint: Endpoint) => () => void;
  /** Calls `cut` when that operator token is good no more; what it gives back ends the watch. */
  watchToken?: (tokenId: string, cut: () => void) => () => void;
  /** Told of every call and of every refusal of credentials or role, whatever the route. */
  audit: AuditHook;
  bodies: BodyBudget;
  faults: FaultPoints;
  log: Log;
  limits: CallerLimits;
  /** What else an error's answer has at a path: a seed's own envelope. */
  besideErrors?: (path: string) => Readonly<Record<string, unknown>>;
  /** Aborted when the server begins to stop. */
  stopping: AbortSignal;
  tls: boolean;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    route?: Route;
  }
  interface FastifyRequest {
    actor: Actor | null;
    /** Null when nothing of a body is going to be read. */
    lease: BodyLease | null;
  }
}

const JSON_TYPE = 'application/json; charset=utf-8';
const RETRY_WHILE_STOPPING_SEC = 2;

export const mountRoutes = (app: FastifyInstance, routes: readonly Route[], options: MountOptions): void => {
  app.decorateRequest('actor', null);
  app.decorateRequest('lease', null);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));
  app.addHook('onRequest', async (request, reply) => {
    setCommonHeaders(request, reply, options.tls);
    const { route } = request.routeOptions.config;
    if (!route) return refuseUnknown(request, reply, routes); // here: Fastify would first read a body that nobody wants
    request.actor = await admit(route, request, options);
    const over = request.actor?.kind === 'node' ? options.attending(request.actor, route.endpoint) : () => undefined;
    if (reply.raw.closed) return over(); // it hung up while we looked who it is: no 'close' comes any more
    reply.raw.once('close', over);
    leaseBody(route, request, reply, options.bodies);
  });
  app.addHook('preParsing', async ({ lease, headers }, reply, body) => {
    if (!lease || headers['transfer-encoding'] === undefined) return body;
    const counted = countedBody(body, lease);
    counted.once('error', () => reply.header('connection', 'close')); // the rest of the body is not read
    return counted;
  });
  app.addHook('onResponse', async (request) => {
    const { route } = request.routeOptions.config;
    if (route) options.faults.at(`server.after-answer.${route.endpoint.id}`);
    // A stream that was begun earlier could not say 'connection: close': kept alive, it would hold up the stop.
    if (options.stopping.aborted) request.raw.socket.destroySoon();
  });
  app.setErrorHandler((error, request, reply) => answerError(error, request, reply, options));
  app.setNotFoundHandler((request, reply) => refuseUnknown(request, reply, routes));
  for (const route of routes) {
    app.route({
      method: route.endpoint.method,
      url: route.endpoint.path.replace(/\{(\w+)\}/g, ':$1'),
      exposeHeadRoute: route.endpoint.door === 'every', // elsewhere a HEAD would poll, stream or count like the GET
      config: { route },
      bodyLimit: bodyLimitOf(route),
      handler: async (request, reply) => {
        request.lease?.begin();
        try {
          return await answer(route, request, reply, options);
        } finally {
          request.lease?.release();
        }
      },
    });
  }
};

export const servedAt = (routes: readonly Route[], doors: readonly (Door | 'all')[]): Route[] =>
  routes.filter(({ endpoint: { door } }) => door === 'every' || doors.includes('all') || doors.includes(door));

const setCommonHeaders = (request: FastifyRequest, reply: FastifyReply, tls: boolean): void => {
  reply.headers({
    'x-request-id': request.id,
    'cache-control': 'no-store',
    'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
  });
  // Behind a proxy the scheme is what the nearest trusted hop says; from anyone else X-Forwarded-Proto means nothing.
  if (tls || request.protocol === 'https') reply.header('strict-transport-security', 'max-age=31536000');
};

/** @throws AegisError when the server, or this caller, has too much of bodies under way */
const leaseBody = (route: Route, request: FastifyRequest, reply: FastifyReply, budget: BodyBudget): void => {
  const bytes = route.endpoint.method === 'GET' ? null : declaredBytes(request.headers);
  if (bytes === null || bytes > bodyLimitOf(route)) return; // beyond the limit it is refused without being read
  const { actor } = request;
  // Who may submit has root on every node: one token serves many programs, and is not bounded by itself.
  const caller = actor?.kind === 'node' ? actor.uid : actor ? null : `from ${request.ip}`;
  const lease = budget.lease(caller);
  reply.raw.once('close', lease.hungUp);
  lease.hold(bytes);
  request.lease = lease;
};

/** @returns the caller. @throws AegisError when this caller may not call this route, or not now */
const admit = async (route: Route, request: FastifyRequest, options: MountOptions): Promise<Actor | null> => {
  if (options.stopping.aborted)
    throw new AegisError('http.unavailable', 'The server is stopping. Send the request again in a few seconds.', {
      retryAfterSec: RETRY_WHILE_STOPPING_SEC,
    });
  const { caller, agentKey = false } = route.endpoint;
  const { limits } = options;
  const address = addressKey(request.ip);
  if (route.limitedAs === 'enrolment') limit(limits.enrolment, address);
  let actor: Actor | null = null;
  try {
    actor = await options.authenticate({
      method: request.method,
      headers: request.headers,
      rawHeaders: request.raw.rawHeaders,
      remoteAddress: request.ip,
      agentKey,
    });
    if (actor && actor.kind !== 'node') limit(limits.address, address);
    if (actor?.kind === 'token') limit(limits.token, actor.id);
    const permittedOne = permitted(actor, route.endpoint);
    if (route.limitedAs === 'agent' && actor?.kind === 'node') limit(limits.agent, actor.uid);
    if (actor === null) limit(limits.address, address);
    return permittedOne;
  } catch (error) {
    if (!(error instanceof AegisError) || error.code === 'http.rate_limited') throw error;
    if (caller === 'anyone') {
      limit(limits.address, address);
      return null;
    }
    if (isAboutWho(error))
      options.audit.refused({
        endpoint: route.endpoint,
        actor,
        address: request.ip,
        requestId: request.id,
        error,
      });
    if (error.code !== 'access.unauthenticated') throw error;
    limit(limits.failedAuth, address);
    throw error;
  }
};

const isAboutWho = ({ code }: AegisError): boolean => [401, 403].includes(httpStatusOf(code));

const limit = (limiter: RateLimiter, key: string): void => {
  const retryAfterSec = limiter.take(key);
  if (retryAfterSec > 0)
    throw new AegisError('http.rate_limited', `Too many requests. Try again in ${retryAfterSec} s.`, { retryAfterSec });
};

const permitted = (actor: Actor | null, { caller, agentKey, scope }: Endpoint): Actor | null => {
  if (caller === 'anyone') return actor;
  if (!actor || (actor.kind === 'dev' && caller === 'node'))
    throw new AegisError('access.unauthenticated', unauthenticatedSentence(caller, agentKey));
  if (!allowed(actor, caller)) throw new AegisError('access.forbidden', forbiddenSentence(actor, caller));
  if (scope === 'fleet' && actor.kind !== 'node' && actor.scope !== null)
    throw new AegisError(
      'access.beyond_scope',
      `This is about the whole fleet, and the token only for the nodes '${actor.scope}'. Use a token without a scope, or ask who has one.`,
    );
  return actor;
};
const withinOf = (actor: Actor | null, { scope }: Endpoint, { scopeOf }: MountOptions): Within =>
  scope !== 'nodes' || actor === null || actor.kind === 'node' || actor.scope === null ? null : scopeOf(actor.scope);
const allowed = (actor: Actor, caller: Exclude<Caller, 'anyone'>): boolean => {
  if (caller === 'viewer-or-node') return actor.kind === 'node' || roleAllows(actor.role, 'viewer');
  return actor.kind === 'node' ? caller === 'node' : caller !== 'node' && roleAllows(actor.role, caller);
};
const unauthenticatedSentence = (caller: Caller, agentKey = false): string =>
  caller === 'node'
    ? agentKey
      ? "This needs the agent's API key as X-Agent-API-Key. Register the agent to get one (POST /api/agent/register)."
      : 'This needs a node token as Bearer. Enrol the node to get one.'
    : "This needs an operator token as Bearer. Make one with 'aegis server token'.";
const forbiddenSentence = (actor: Actor, caller: Exclude<Caller, 'anyone'>): string => {
  if (actor.kind === 'node') return 'A node may not call this: it is for operators.';
  if (caller === 'node') return 'Only a node may call this, with its own token.';
  const role: Role = caller === 'viewer-or-node' ? 'viewer' : caller;
  return `This needs the role '${role}'; the token has '${actor.role}'.`;
};

const answer = async (
  route: Route,
  request: FastifyRequest,
  reply: FastifyReply,
  options: MountOptions,
): Promise<FastifyReply> => {
  const { endpoint } = route;
  const sent = await decodedBody(route, request);
  const context: RouteContext<typeof endpoint> = {
    params: (endpoint.params ? decode(endpoint.params, request.params, 'path') : undefined) as never,
    query: (endpoint.query ? decode(endpoint.query, request.query, 'query') : undefined) as never,
    body: sent.body as never,
    form: sent.form as never,
    actor: request.actor as never, // permitted() has checked it against the endpoint's caller
    within: withinOf(request.actor, endpoint, options),
    bearer: bearerOf(request.headers),
    headers: request.headers,
    remoteAddress: request.ip,
    requestId: request.id,
    refused: (error) => {
      const { actor, ip: address, id: requestId } = request;
      options.audit.refused({ endpoint, actor, address, requestId, error });
    },
    get signal() {
      return signalOf(reply, options, request.actor);
    },
    stopping: () => options.stopping.aborted,
    reply,
  };
  const result = await recorded(context, options, () => route.handler(context), endpoint);
  options.faults.at(`server.before-answer.${endpoint.id}`);
  // A handler that answered by itself: to await its reply gives undefined once the stream has ended, also when the caller hung up.
  if (result === reply || reply.raw.headersSent || reply.raw.destroyed) return reply;
  if (options.stopping.aborted) reply.header('connection', 'close');
  if (endpoint.status && reply.statusCode === 200) reply.code(endpoint.status);
  return result === undefined
    ? reply.code(204).send()
    : reply.header('content-type', JSON_TYPE).send(JSON.stringify(result));
};

/** The handler between the two halves of what is recorded of its call. */
const recorded = async (
  context: RouteContext<Endpoint>,
  { audit }: MountOptions,
  handle: () => unknown,
  endpoint: Endpoint,
): Promise<unknown> => {
  const { actor, requestId, params, body, remoteAddress: address } = context;
  const call = { endpoint, actor, address, requestId, params, body };
  const record: CallRecord | null = audit.call(call);
  await record?.begun;
  let result: unknown;
  try {
    result = await handle();
  } catch (thrown) {
    const error = asShown(thrown);
    if (record) await record.ended({ error });
    else if (isRefusal(error, context)) audit.refused({ ...call, error });
    throw thrown;
  }
  await record?.ended({ result });
  return result;
};

const bodyLimitOf = ({ endpoint }: Route): number =>
  endpoint.bodyLimitBytes ?? (endpoint.caller === 'anyone' ? ANYONES_BODY_LIMIT_BYTES : BODY_LIMIT_BYTES);

const decodedBody = async (route: Route, request: FastifyRequest): Promise<{ body?: unknown; form?: unknown }> => {
  const { endpoint } = route;
  if (!endpoint.body && !endpoint.rawBody) return {};
  const sent = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
  const boundary = endpoint.form && boundaryOf(request.headers['content-type']);
  if (boundary === undefined)
    requireType(request.headers['content-type'], endpoint.rawBody ? RAW_TYPE : /^application\/json$/i, sent.length);
  const encoding = request.headers['content-encoding'];
  const unpacked = () => unpackBody(sent, encoding, bodyLimitOf(route));
  const body = await (encoding === undefined || !request.lease ? unpacked() : request.lease.unpacking(unpacked));
  if (body !== sent) request.lease?.hold(sent.length + body.length);
  if (endpoint.rawBody) return { body };
  if (endpoint.form && boundary !== undefined)
    return { form: decode(endpoint.form, parseMultipart(body, boundary), 'form') };
  if (!endpoint.body) return {};
  const maxValues = endpoint.caller === 'anyone' ? ANYONES_MAX_VALUES : undefined;
  return { body: decode(endpoint.body, parseJsonBody(body, maxValues), 'body') };
};

const RAW_TYPE = /^application\/octet-stream$/i;
const requireType = (header: string | undefined, wanted: RegExp, length: number): void => {
  if (header === undefined && length === 0) return;
  const [type = '', ...parameters] = (header ?? '').split(';').map((part) => part.trim());
  const charset = parameters.find((part) => /^charset=/i.test(part));
  if (wanted.test(type) && (!charset || /^charset="?utf-?8"?$/i.test(charset))) return;
  throw new AegisError(
    'http.unsupported_media_type',
    wanted === RAW_TYPE
      ? 'Send the bytes as application/octet-stream.'
      : 'Send the body as application/json (Content-Type), in UTF-8.',
  );
};

export const bearerOf = (headers: IncomingHttpHeaders): string | undefined =>
  /^Bearer +([\x21-\x7e]+) *$/i.exec(headers.authorization ?? '')?.[1];

const OVER = 'the request is over';

/** Made only for the few handlers that wait or stream. Who asked has to stay good for as long. */
const signalOf = (
  reply: FastifyReply,
  { stopping, watchToken }: Pick<MountOptions, 'stopping' | 'watchToken'>,
  actor: Actor | null,
): AbortSignal => {
  const controller = new AbortController();
  const abort = () => controller.abort(OVER); // without a reason each would be made an exception with a stack
  if (stopping.aborted || reply.raw.closed) {
    abort(); // no 'close' would come any more that takes the listener away
    return controller.signal;
  }
  stopping.addEventListener('abort', abort, { once: true });
  const unwatch = actor?.kind === 'token' ? watchToken?.(actor.id, () => reply.raw.destroy()) : undefined;
  reply.raw.once('close', () => {
    unwatch?.();
    stopping.removeEventListener('abort', abort);
    abort();
  });
  return controller.signal;
};

const answerError = (
  error: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
  { log, besideErrors = () => ({}) }: MountOptions,
): FastifyReply => {
  const shown = asShown(error);
  const status = httpStatusOf(shown.code);
  if (status >= 500)
    log.error(
      {
        request_id: request.id,
        method: request.method,
        path: pathOf(request),
        code: shown.code,
        err: shown.cause ?? shown,
      },
      shown.message,
    );
  else
    log.debug(
      { request_id: request.id, method: request.method, path: pathOf(request), code: shown.code },
      shown.message,
    );
  if (shown.retryAfterSec !== undefined) reply.header('retry-after', String(shown.retryAfterSec));
  if (status === 401) reply.header('www-authenticate', 'Bearer');
  if (status === 413) reply.header('connection', 'close'); // the rest of the body is not read
  return reply
    .code(status)
    .header('content-type', JSON_TYPE)
    .send(JSON.stringify({ ...besideErrors(pathOf(request)), ...errorBody(shown, request.id) }));
};

/** Without the query, which may hold what a caller did not mean for a log. */
const pathOf = (request: FastifyRequest): string => request.url.split('?', 1)[0] ?? '';

/** @throws always: 405 for a path that other methods have, else 404 */
const refuseUnknown = (request: FastifyRequest, reply: FastifyReply, routes: readonly Route[]): never => {
  const path = pathOf(request);
  const methods = routes
    .filter(({ endpoint }) => patternOf(endpoint.path).test(path))
    .map(({ endpoint }) => endpoint.method);
  if (methods.length === 0)
    throw new AegisError('http.not_found', 'There is nothing at this path. See /openapi.json for what there is.');
  const allowed = [...new Set(methods)].join(', ');
  reply.header('allow', allowed);
  throw new AegisError('http.method_not_allowed', `This path takes ${allowed}, not ${request.method}.`, {
    details: { allow: allowed },
  });
};
const patternOf = (path: string): RegExp =>
  new RegExp(`^${path.replace(/[.*+?^$()|[\]\\]/g, '\\$&').replace(/\{\w+\}/g, '[^/]+')}$`);
