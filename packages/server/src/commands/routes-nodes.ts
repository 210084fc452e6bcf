import type { AckAnswer, ReportResult } from '@aegis/protocol/commands/carrier';
import { ackCommands, pollCommands, pushLogs, pushStatus, putOutput } from '@aegis/protocol/commands/endpoints';
import type { AegisError } from '@aegis/protocol/errors';
import type * as z from 'zod/mini';
import type { NodeActor } from '../platform/http/actor.ts';
import { isRefusal } from '../platform/http/audit-hook.ts';
import { type Route, route } from '../platform/http/route.ts';
import { decodeChunks } from './chunk-decode.ts';
import type { PollingNode } from './dispatch.ts';
import type { ReportOutcome } from './reports.ts';
import type { CommandsService } from './service.ts';

/** The nodes' door: poll, acknowledge, output, reports. A node is whoever its token says, never what a body says. */
export const nodeRoutes = (commands: CommandsService): Route[] => [
  route(pollCommands, ({ actor, query, signal, stopping }) =>
    commands.dispatch.poll(nodeOf(actor), {
      waitSec: query.wait,
      resume: query.resume === 'true',
      desired: query.desired,
      signal,
      stopping,
    }),
  ),
  route(
    ackCommands,
    async ({ actor, body }): Promise<z.infer<typeof AckAnswer>> => ({
      acknowledged: await commands.reports.acknowledge(actor.uid, body.ids),
    }),
  ),
  route(pushLogs, async ({ actor, body }) => {
    const key = body.execution_id
      ? { id: body.execution_id, commandId: body.command_id }
      : { commandId: body.command_id, attempt: 1 };
    return { next: await commands.output.store(actor.uid, key, decodeChunks(body.chunks)) };
  }),
  route(putOutput, async ({ actor, params, query, body }) => ({
    next: await commands.output.store(actor.uid, { id: params.id }, [
      { stream: params.stream, offset: query.offset, bytes: body },
    ]),
  })),
  route(pushStatus, async ({ actor, body, refused, within }) => {
    if ('reports' in body) {
      const outcomes = await commands.reports.report(nodeOf(actor), body.reports);
      for (const { error } of outcomes) if (error && isRefusal(error, { actor, within })) refused(error);
      return { results: outcomes.map(resultOf) };
    }
    // The seed's single report: refused with a status of its own.
    const outcomes = await commands.reports.report(nodeOf(actor), [body]);
    for (const { error } of outcomes) if (error) throw error;
    return { results: outcomes.map(resultOf) };
  }),
];

const nodeOf = (actor: NodeActor): PollingNode => ({ uid: actor.uid, name: actor.name, keyId: actor.keyId });

const resultOf = ({ executionId, state, next, error }: ReportOutcome): ReportResult => ({
  execution_id: executionId,
  state,
  next,
  ...(error ? { error: shown(error) } : {}),
});
const shown = ({ code, message }: AegisError) => ({ code, message });
