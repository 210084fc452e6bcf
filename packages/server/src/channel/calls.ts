import { isBase64 } from '@aegis/protocol/channel/base64';
import { Call } from '@aegis/protocol/channel/call';
import type { Handler } from '@aegis/protocol/channel/session';
import type { Endpoint } from '@aegis/protocol/endpoint';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import type { FastifyReply } from 'fastify';
import type { NodeActor } from '../platform/http/actor.ts';
import { type AuditHook, isRefusal } from '../platform/http/audit-hook.ts';
import { decode } from '../platform/http/decode.ts';
import type { Route, RouteContext } from '../platform/http/route.ts';

/** A node's calls over its channel reach the handlers that its HTTP requests reach, decoded by the same schemas. Only endpoints that name a
 *  channel are served, each on its own alone. */

export interface Caller {
  /** Who calls, looked up for each call: a node may have been retired since. @throws AegisError nodes.* */
  actor(): Promise<NodeActor>;
  remoteAddress: string;
  /** Aborted when the connection ends, or the server wants waiting answers to end. */
  signal: AbortSignal;
}

export type ChannelCalls = (channel: string, caller: Caller) => Handler | null;

export const channelCalls = (
  routes: readonly Route[],
  on: { faults: FaultPoints; refused: AuditHook['refused']; newId: () => string; stopping: AbortSignal },
): ChannelCalls => {
  const { faults, stopping } = on;
  const byChannel = new Map<string, Map<string, Route>>();
  for (const route of routes) {
    const { channel, id, caller } = route.endpoint;
    if (channel === undefined) continue;
    if (caller !== 'node') throw new RangeError(`the endpoint '${id}' is served on a channel, and not for nodes`);
    const known = byChannel.get(channel) ?? new Map<string, Route>();
    byChannel.set(channel, known.set(id, route));
  }
  return (channel, caller) => {
    const known = byChannel.get(channel);
    if (!known) return null;
    return async ({ type, body: asked }) => {
      if (type !== 'request') return null; // the bound on what runs at once is one on requests
      if (stopping.aborted)
        throw new AegisError('http.unavailable', 'The server is stopping. The node asks again when it is back.');
      const call = decode(Call, asked, 'message') as Call;
      const route = known.get(call.call);
      if (!route)
        throw new AegisError(
          'http.not_found',
          `The channel '${channel}' has no call '${call.call}'. Give server and node the same release.`,
        );
      const context = await contextOf(route.endpoint, call, caller, on);
      const result = await handled(route, context);
      faults.at(`server.before-answer.${call.call}`);
      return result ?? null;
    };
  };
};

/** What is refused on a channel stands in the audit like what is refused over HTTP. */
const handled = async (route: Route, context: RouteContext<Endpoint>): Promise<unknown> => {
  try {
    return await route.handler(context);
  } catch (error) {
    if (error instanceof AegisError && isRefusal(error, context)) context.refused(error);
    throw error;
  }
};

const contextOf = async (
  endpoint: Endpoint,
  { params, query, body }: Call,
  caller: Caller,
  { refused, newId, stopping }: { refused: AuditHook['refused']; newId: () => string; stopping: AbortSignal },
): Promise<RouteContext<Endpoint>> => {
  const actor = await caller.actor();
  const part = <T>(schema: Endpoint['params'], value: unknown, name: string): T =>
    (schema ? decode(schema, value ?? {}, name) : undefined) as T;
  const requestId = newId();
  return {
    params: part(endpoint.params, params, 'path'),
    query: part(endpoint.query, texts(query), 'query'),
    body: (endpoint.rawBody ? rawBytes(body) : part(endpoint.body, body, 'body')) as never,
    form: undefined as never,
    actor: actor as never, // channelCalls has seen that the endpoint is for nodes
    within: null, // nodes have no scope
    bearer: undefined,
    headers: {},
    remoteAddress: caller.remoteAddress,
    requestId,
    refused: (error) => refused({ endpoint, actor, address: caller.remoteAddress, requestId, error }),
    signal: caller.signal,
    stopping: () => stopping.aborted,
    reply: NO_REPLY,
  };
};

/** As they would come in a URL, which is what the schemas decode. */
const texts = (query: Call['query']): Record<string, string> =>
  Object.fromEntries(Object.entries(query ?? {}).map(([name, value]) => [name, String(value)]));

const rawBytes = (body: unknown): Buffer => {
  if (typeof body === 'string' && isBase64(body)) return Buffer.from(body, 'base64');
  throw new AegisError('http.malformed', 'The request is malformed: body: base64 is expected here.');
};

/** A handler that wants headers or a stream has no place on a channel. */
const NO_REPLY = new Proxy({} as FastifyReply, {
  get: (_, name) => {
    throw new RangeError(`the answer on a channel has no '${String(name)}'`);
  },
});
