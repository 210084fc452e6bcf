import type { Session } from '@aegis/protocol/channel/session';
import type { Endpoint, ResponseOf } from '@aegis/protocol/endpoint';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import * as z from 'zod/mini';
import { type CallOptions, type HttpClient, Unreachable } from '../platform/http/client.ts';

/** The client of the domains: what may go over the channel goes there while it is up, and by HTTP while it is not. Each call is whole in
 *  itself and may be sent twice, so a change from one to the other loses and doubles nothing. */

export const channelClient = ({
  http,
  live,
  mayPoll,
  faults,
}: {
  http: HttpClient;
  live(): Session | null;
  /** Whether calls go by HTTP while there is no channel. */
  mayPoll: boolean;
  faults: FaultPoints;
}): HttpClient => ({
  call: async (endpoint, options = {}) => {
    if (endpoint.channel === undefined || options.sink) return http.call(endpoint, options);
    const session = live();
    if (session) {
      const answer = await ask(session, endpoint, options, faults);
      if (answer) return answer.response;
    } else if (!mayPoll) throw new Unreachable(`${endpoint.id}: the channel is not up`);
    return http.call(endpoint, options);
  },
});

const DEFAULT_TIMEOUT_MS = 30_000;

/** Null: too large for a message. */
const ask = async <E extends Endpoint>(
  session: Session,
  endpoint: E,
  { params, query, body, timeoutMs = DEFAULT_TIMEOUT_MS, signal }: CallOptions<E>,
  faults: FaultPoints,
): Promise<{ response: ResponseOf<E> } | null> => {
  const given: unknown = body;
  const call = {
    call: endpoint.id,
    ...(params ? { params } : {}),
    ...(query ? { query } : {}),
    ...(given === undefined
      ? {}
      : { body: given instanceof Uint8Array ? Buffer.from(given).toString('base64') : given }),
  };
  faults.at(`daemon.before-send.${endpoint.id}`);
  let result: unknown;
  try {
    result = await session.request(endpoint.channel ?? '', call, { timeoutMs, ...(signal ? { signal } : {}) });
  } catch (error) {
    if (!(error instanceof AegisError)) throw new Unreachable(`${endpoint.id}: ${String(error)}`, 0, error);
    if (error.code === 'http.too_large') return null;
    if (PASSING.test(error.code))
      throw new Unreachable(`${endpoint.id}: ${error.code}`, (error.retryAfterSec ?? 0) * 1000, error);
    throw error;
  }
  faults.at(`daemon.after-send.${endpoint.id}`);
  if (!endpoint.response) return { response: undefined as ResponseOf<E> };
  const parsed = z.safeParse(endpoint.response, result);
  if (parsed.success) return { response: parsed.data as ResponseOf<E> };
  throw new Unreachable(`${endpoint.id}: the answer is not what the protocol says`, 0, parsed.error);
};

/** Of the connection or the server's state, not of what was asked. */
const PASSING = /^(?:http\.(?:unavailable|rate_limited|internal)|channel\.)/;

/** The session that is up, for whoever calls over it. */
export const liveSession = () => {
  let live: Session | null = null;
  const listeners: (() => void)[] = [];
  return {
    get: (): Session | null => live,
    set: (session: Session | null): void => {
      live = session;
      for (const listener of listeners) listener();
    },
    onChange: (listener: () => void): void => {
      listeners.push(listener);
    },
  };
};
