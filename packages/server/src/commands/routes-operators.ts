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
  route(seedSubmit, ({ actor, within, body, headers }) =>
    commands.submission.submit(actor, within, body, keyOf(headers)),
  ),
  route(submitCommand, ({ actor, within, body, headers }) =>
    commands.submission.submit(actor, within, body, keyOf(headers)),
  ),
  route(listCommands, ({ query, within }) => commands.listing.commands(query, within)),
  route(showCommand, ({ params, within }) => commands.listing.command(params.id, within)),
  route(listExecutions, ({ params, query, within }) => commands.listing.executions(params.id, query, within)),
  route(cancelCommand, async ({ params, body, within }) => {
    await commands.cancel.cancel(params.id, body.node, within, body.directive);
    return commands.listing.command(params.id, within);
  }),
  route(retryCommand, ({ actor, params, within }) => commands.retry(actor, params.id, within)),
];

const keyOf = (headers: FastifyRequest['headers']): string | undefined => {
  const key = headers['idempotency-key'];
  return Array.isArray(key) ? key.join(',') : key;
};
