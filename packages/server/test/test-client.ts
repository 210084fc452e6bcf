import {
  type BodyOf,
  type Endpoint,
  type ParamsOf,
  pathOf,
  type QueryOf,
  type ResponseOf,
} from '@aegis/protocol/endpoint';
import type { ErrorBody } from '@aegis/protocol/errors';

/** A tiny client typed by the endpoints: `await client.call(listAgents, { query: { site: 'fra' } })`. */

type Loose<T> = T extends object ? Partial<T> : T;
export interface Call<E extends Endpoint> {
  params?: ParamsOf<E>;
  query?: Loose<QueryOf<E>>;
  /** Defaults may be left out. Bytes go as application/octet-stream. */
  body?: Loose<BodyOf<E>> | Uint8Array;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}
export interface Received {
  status: number;
  headers: Headers;
  text: string;
  /** The parsed JSON, or undefined. */
  json: unknown;
}

export interface TestClient {
  /** The answer's value. @throws Refused for every status but 2xx */
  call<E extends Endpoint>(endpoint: E, call?: Call<E>): Promise<ResponseOf<E>>;
  /** Whatever was answered. */
  send<E extends Endpoint>(endpoint: E, call?: Call<E>): Promise<Received>;
  /** By hand: method, path, and what fetch takes. */
  raw(method: string, path: string, init?: Omit<RequestInit, 'method'>): Promise<Received>;
}

/** An error answer, with what a test compares. */
export class Refused extends Error {
  readonly status: number;
  readonly code: string;
  readonly details: unknown;
  constructor(status: number, { error }: ErrorBody) {
    super(`${status} ${error.code}: ${error.message}`);
    this.status = status;
    this.code = error.code;
    this.details = error.details;
  }
}

export const testClient = (urlOf: () => string, bearer: () => Promise<string | undefined>): TestClient => {
  const raw: TestClient['raw'] = async (method, path, init = {}) => {
    const token = await bearer();
    const headers = new Headers(init.headers);
    if (token !== undefined && !headers.has('authorization')) headers.set('authorization', `Bearer ${token}`);
    const answer = await fetch(`${urlOf()}${path}`, { ...init, method, headers });
    const text = await answer.text();
    const isJson = answer.headers.get('content-type')?.startsWith('application/json');
    return {
      status: answer.status,
      headers: answer.headers,
      text,
      json: isJson && text !== '' ? JSON.parse(text) : undefined,
    };
  };
  const send: TestClient['send'] = (endpoint, call = {}) => {
    const { params, query, body, headers, signal } = call;
    const search = new URLSearchParams();
    for (const [name, value] of Object.entries(query ?? {})) if (value !== undefined) search.set(name, String(value));
    const bytes = body instanceof Uint8Array;
    const path = pathOf(endpoint, (params ?? {}) as Record<string, string>);
    return raw(endpoint.method, search.size > 0 ? `${path}?${search}` : path, {
      headers: {
        ...(body === undefined ? {} : { 'content-type': bytes ? 'application/octet-stream' : 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: bytes ? new Uint8Array(body) : JSON.stringify(body) }),
      ...(signal ? { signal } : {}),
    });
  };
  return {
    raw,
    send,
    call: async (endpoint, call) => {
      const answer = await send(endpoint, call);
      if (answer.status >= 400) throw new Refused(answer.status, answer.json as ErrorBody);
      return answer.json as ResponseOf<typeof endpoint>;
    },
  };
};
