import type * as z from 'zod/mini';
import type { Caller, ScopeRule } from './access/roles.ts';

/** An endpoint: method, path, who may call, and the schemas that validate, type and document it. The server mounts these,
 *  the CLI and the daemon call these, `/openapi.json` is generated from these: there is no second description. */

export type Door = 'actions' | 'registry' | 'gateway' | 'api' | 'agent-svc' | 'backup';
/** Those on which nodes call. */
export type NodeChannel = 'commands' | 'logs' | 'artifacts' | 'backups' | 'telemetry';
export type Schema = z.ZodMiniType;

export interface Endpoint {
  readonly id: string;
  readonly door: Door | 'every';
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Path with `{name}` parameters, as OpenAPI writes them. */
  readonly path: string;
  readonly caller: Caller;
  /** Of every endpoint that operators may call. */
  readonly scope?: ScopeRule;
  readonly summary: string;
  readonly tag: string;
  readonly params?: Schema;
  readonly query?: Schema;
  readonly body?: Schema;
  /** The parts of a `multipart/form-data` body, which may be sent in place of the JSON: files as bytes, the others as text. */
  readonly form?: Schema;
  /** No body at all counts as `{}`. */
  readonly bodyOptional?: true;
  /** Also for a keyless agent with its API key (`X-Agent-API-Key`), which opens nothing else. */
  readonly agentKey?: true;
  /** A node may also call it on this channel of its WebSocket. */
  readonly channel?: NodeChannel;
  /** Instead of the common limit. */
  readonly bodyLimitBytes?: number;
  /** Raw bodies (`application/octet-stream`) are handed over as bytes. */
  readonly rawBody?: true;
  readonly response?: Schema;
  /** Status of success; 200 when absent. */
  readonly status?: number;
  /** Content types beside application/json that the answer may have. */
  readonly produces?: readonly string[];
}

/** Keeps the literal types of an endpoint while checking its shape. */
export const endpoint = <const E extends Endpoint>(definition: E): E => definition;

export type BodyOf<E extends Endpoint> = E extends { body: infer S extends Schema } ? z.infer<S> : undefined;
export type FormOf<E extends Endpoint> = E extends { form: infer S extends Schema } ? z.infer<S> : never;
export type QueryOf<E extends Endpoint> = E extends { query: infer S extends Schema } ? z.infer<S> : undefined;
export type ParamsOf<E extends Endpoint> = E extends { params: infer S extends Schema } ? z.infer<S> : undefined;
export type ResponseOf<E extends Endpoint> = E extends { response: infer S extends Schema } ? z.infer<S> : undefined;

/** Fills a path's `{name}` parameters, percent-encoded. */
export const pathOf = (endpoint: Pick<Endpoint, 'path'>, params: Readonly<Record<string, string>> = {}): string =>
  endpoint.path.replace(/\{(\w+)\}/g, (_, name: string) => {
    const value = params[name];
    if (value === undefined) throw new RangeError(`${endpoint.path} needs the parameter '${name}'`);
    return encodeURIComponent(value);
  });
