import * as api from '@aegis/protocol/backups/agent-endpoints';
import type { Endpoint } from '@aegis/protocol/endpoint';
import { apiShowNode } from '@aegis/protocol/nodes/endpoints';
import type { TestServer } from './start-test-server.ts';
import { type Call, testClient } from './test-client.ts';

/** Agents without a daemon, for tests: registered, and calling with their API key. */

export const register = async (server: TestServer, name = "David's MacBook") =>
  (await server.as('operator').call(api.registerAgent, { body: { name, platform: 'darwin' } })).agent;
/** With the API key instead of a bearer. */
export const withKey = (server: TestServer, apiKey: string) => {
  const client = testClient(
    () => server.url,
    async () => undefined,
  );
  const headers = { 'x-agent-api-key': apiKey };
  return {
    call: <E extends Endpoint>(endpoint: E, call: Call<E> = {}) => client.call(endpoint, { ...call, headers }),
    send: <E extends Endpoint>(endpoint: E, call: Call<E> = {}) => client.send(endpoint, { ...call, headers }),
    raw: (method: string, path: string, body?: string) =>
      client.raw(method, path, {
        headers: { ...headers, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
        ...(body === undefined ? {} : { body }),
      }),
  };
};
export const statusOf = async (server: TestServer, id: string) =>
  (await server.as('viewer').call(apiShowNode, { params: { id } })).status;
