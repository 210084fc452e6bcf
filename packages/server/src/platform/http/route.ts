import { SCOPE_RULES, takesOperators } from '@aegis/protocol/access/roles';
import type { BodyOf, Endpoint, FormOf, ParamsOf, QueryOf, ResponseOf, Schema } from '@aegis/protocol/endpoint';
import type { AegisError } from '@aegis/protocol/errors';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Within } from '../node-scope.ts';
import type { ActorFor } from './actor.ts';

/** A route: an endpoint of the protocol with the function that answers it. Everything around it (who may call, decoding,
 *  errors, limits) is done by mount.ts from the endpoint's own declaration. */

export interface RouteContext<E extends Endpoint> {
  readonly params: ParamsOf<E>;
  readonly query: QueryOf<E>;
  /** Decoded by the endpoint's schema; the bytes themselves where it says `rawBody`. */
  readonly body: E extends { rawBody: true } ? Buffer : BodyOf<E> | (E extends { form: Schema } ? undefined : never);
  /** Of an endpoint that also takes a form: its parts when one was sent, and `body` is undefined then. */
  readonly form: FormOf<E> | undefined;
  readonly actor: ActorFor<E['caller']>;
  /** Where the endpoint's scope is `nodes`: the nodes that exist for this caller. */
  readonly within: Within;
  /** The bearer credential as sent, for routes that judge it themselves; elsewhere `actor` is all that counts. */
  readonly bearer: string | undefined;
  readonly headers: FastifyRequest['headers'];
  readonly remoteAddress: string;
  readonly requestId: string;
  /** For the audit, of what is refused in an answer that is good otherwise. What a handler throws is there by itself. */
  readonly refused: (error: AegisError) => void;
  /** Aborted when the caller hangs up, or the server wants waiting answers to end because it stops (see `stopping`). */
  readonly signal: AbortSignal;
  /** True once the server is stopping: answer a poll with `retry_after_ms`. */
  readonly stopping: () => boolean;
  /** For headers, for another status, and for streams: after `reply.send(stream)` or `reply.hijack()` return the reply itself. */
  readonly reply: FastifyReply;
}

export type Answer<E extends Endpoint> = ResponseOf<E> | FastifyReply;
export type Handler<E extends Endpoint> = (context: RouteContext<E>) => Promise<Answer<E>> | Answer<E>;

export interface RouteOptions {
  /** Counted against the caller's address (`enrolment`) or the node itself (`agent`), and refused with 429 beyond it. */
  readonly limitedAs?: 'enrolment' | 'agent';
}

export interface Route extends RouteOptions {
  readonly endpoint: Endpoint;
  readonly handler: (context: RouteContext<Endpoint>) => unknown;
}

/** @throws RangeError for an endpoint that does not say who may call it, and how scopes apply: deny by default starts here */
export const route = <const E extends Endpoint>(
  endpoint: E,
  handler: Handler<E>,
  options: RouteOptions = {},
): Route => {
  if (!CALLERS.has(endpoint.caller)) throw new RangeError(`the endpoint '${endpoint.id}' does not declare its caller`);
  if (takesOperators(endpoint.caller) && !RULES.has(endpoint.scope))
    throw new RangeError(
      `the endpoint '${endpoint.id}' does not declare its scope: 'nodes' (the handler keeps to 'within'), 'fleet' or 'none'`,
    );
  // Safe: mount.ts decodes by this very endpoint before it calls this very handler.
  return { endpoint, handler: handler as unknown as Route['handler'], ...options };
};

const CALLERS: ReadonlySet<string> = new Set(['anyone', 'viewer', 'operator', 'admin', 'node', 'viewer-or-node']);
const RULES: ReadonlySet<string | undefined> = new Set(SCOPE_RULES);
