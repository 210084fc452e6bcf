import * as api from '@aegis/protocol/messages/endpoints';
import * as nodes from '@aegis/protocol/messages/node-endpoints';
import { type Route, route } from '../platform/http/route.ts';
import type { MessagesService } from './service.ts';

/** messages/routes: the HTTP door of the messages domain. No rules and no SQL here. */
export const messagesRoutes = (messages: MessagesService): Route[] => [
  route(api.agentStatus, ({ params, within }) => messages.status(params.id, within)),
  route(api.sendMessage, ({ params, body, within, signal }) => messages.send(params.id, body, within, signal)),
  route(api.broadcastMessage, ({ body }) => messages.broadcast(body)),
  route(api.showMessage, ({ params, within }) => messages.show(params.id, params.message_id, within)),
  route(nodes.pollMessages, ({ actor, query, signal, stopping }) =>
    messages.polls.poll(actor.uid, {
      waitSec: query.wait,
      except: query.except?.split(',') ?? [],
      signal,
      stopping,
    }),
  ),
  route(nodes.answerMessage, async ({ actor, body }) => ({
    message_id: body.message_id,
    state: await messages.polls.answer(actor.uid, body),
  })),
];
