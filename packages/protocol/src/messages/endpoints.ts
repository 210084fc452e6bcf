import * as z from 'zod/mini';
import { endpoint } from '../endpoint.ts';
import { AgentStatus, BroadcastAnswer, BroadcastMessage, MessageView, SendAnswer, SendMessage } from './message.ts';

const tag = 'messages';
const ById = z.object({ id: z.string().check(z.maxLength(128)) });

export const agentStatus = endpoint({
  id: 'agentStatus',
  door: 'api',
  method: 'GET',
  path: '/api/v1/agents/{id}/status',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: "Whether a node's channel is up, at whichever server process, and what can be said on it",
  params: ById,
  response: AgentStatus,
});
export const sendMessage = endpoint({
  id: 'sendMessage',
  door: 'api',
  method: 'POST',
  path: '/api/v1/agents/{id}/send',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: 'Say something to a node on a channel of your own; without a connection it waits for one',
  params: ById,
  body: SendMessage,
  response: SendAnswer,
});
export const broadcastMessage = endpoint({
  id: 'broadcastMessage',
  door: 'api',
  method: 'POST',
  path: '/api/v1/agents/broadcast',
  caller: 'operator',
  scope: 'fleet',
  tag,
  summary: 'Say something to every node that is connected; the others stand under failed',
  body: BroadcastMessage,
  response: BroadcastAnswer,
});
export const showMessage = endpoint({
  id: 'showMessage',
  door: 'api',
  method: 'GET',
  path: '/api/v1/agents/{id}/messages/{message_id}',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'What became of a message: its state, and what the node replied',
  params: z.object({ ...ById.shape, message_id: z.uuid() }),
  response: MessageView,
});
