/** api: the server's operator side as the CLI calls it. Used by the topics; holds no presentation.
 *  Invariant: a route here is the protocol's own endpoint: method and path are checked against its literal types by the compiler.
 *  The endpoints' values stay unimported: building their zod schemas costs 12 ms, a third of a bare start. */
import type * as commands from '@aegis/protocol/commands/endpoints';
import type { Endpoint } from '@aegis/protocol/endpoint';
import type * as nodes from '@aegis/protocol/nodes/endpoints';

export interface Route<E extends Endpoint> {
  readonly method: E['method'];
  readonly path: E['path'];
  /** Never set: carries the endpoint's type. */
  readonly endpoint?: E;
}

const route = <E extends Endpoint>(method: E['method'], path: E['path']): Route<E> => ({ method, path });

export const routes = {
  submitCommand: route<typeof commands.submitCommand>('POST', '/api/v1/commands'),
  listCommands: route<typeof commands.listCommands>('GET', '/api/v1/commands'),
  showCommand: route<typeof commands.showCommand>('GET', '/api/v1/commands/{id}'),
  cancelCommand: route<typeof commands.cancelCommand>('POST', '/api/v1/commands/{id}/cancel'),
  retryCommand: route<typeof commands.retryCommand>('POST', '/api/v1/commands/{id}/retry'),
  listExecutions: route<typeof commands.listExecutions>('GET', '/api/v1/commands/{id}/executions'),
  readLogs: route<typeof commands.readLogs>('GET', '/api/v1/commands/{id}/logs'),
  statistics: route<typeof commands.statistics>('GET', '/api/v1/statistics'),
  listNodes: route<typeof nodes.apiListNodes>('GET', '/api/v1/agents'),
  showNode: route<typeof nodes.apiShowNode>('GET', '/api/v1/agents/{id}'),
  patchNode: route<typeof nodes.apiPatchNode>('PATCH', '/api/v1/agents/{id}'),
  retireNode: route<typeof nodes.apiRetireNode>('DELETE', '/api/v1/agents/{id}'),
  health: route<typeof nodes.healthz>('GET', '/healthz'),
} as const;
