import {
  cancelCommand,
  listCommands,
  listExecutions,
  retryCommand,
  seedSubmit,
  showCommand,
  submitCommand,
} from '@aegis/protocol/commands/endpoints';
import type { FastifyRequest } from 'fastify';
import { type Route, route } from '../platform/http/route.ts';
import type { CommandsService } from './service.ts';

/** The operators' doors: submit by either, list, show, cancel, retry. */
export const operatorRoutes = (commands: CommandsService): Route[] => [
  route(seedSubmit, ({ actor, body, headers }) => commands.submission.submit(actor, body, keyOf(headers))),
  route(submitCommand, ({ actor, body, headers }) => commands.submission.submit(actor, body, keyOf(headers))),
  route(listCommands, ({ query }) => commands.listing.commands(query)),
  route(showCommand, ({ params }) => commands.listing.command(params.id)),
  route(listExecutions, ({ params, query }) => commands.listing.executions(params.id, query)),
  route(cancelCommand, async ({ params, body }) => {
    await commands.cancel.cancel(params.id, body.node);
    return commands.listing.command(params.id);
  }),
  route(retryCommand, ({ actor, params }) => commands.retry(actor, params.id)),
];

const keyOf = (headers: FastifyRequest['headers']): string | undefined => {
  const key = headers['idempotency-key'];
  return Array.isArray(key) ? key.join(',') : key;
};
