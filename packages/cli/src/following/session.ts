import type { Command, Execution } from '@aegis/protocol/commands/submission';
import type { Api } from '../api/client.ts';
import { type FollowOptions, followLogs } from '../api/follow.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { hasEnded } from './exit-status.ts';
import type { Outcome, Sink } from './sink.ts';

/** Follows one command into a sink until it ends. Null: the caller let go of it (`options.signal`). */
export const followSession = async (
  api: Api,
  commandId: string,
  sink: Sink,
  options: FollowOptions,
): Promise<Outcome | null> => {
  const last = new Map<string, Execution>();
  let command: Command | null = null;
  try {
    for await (const event of followLogs(api, commandId, options)) {
      if (event.type === 'chunk') await sink.chunk(event);
      else if (event.type === 'gap') await sink.gap(event);
      else if (event.type === 'state') {
        remember(last, event.execution);
        await sink.state(event.execution);
      } else command = event.command;
    }
  } catch (error) {
    if (options.signal?.aborted) return null;
    throw error;
  }
  if (options.signal?.aborted) return null;
  const outcome = await outcomeOf(api, commandId, command, last);
  await sink.end(outcome);
  return outcome;
};

const remember = (last: Map<string, Execution>, execution: Execution): void => {
  const known = last.get(execution.node_uid);
  if (!known || execution.attempt >= known.attempt) last.set(execution.node_uid, execution);
};

/** The states that came along are enough when they tell how every node ended; otherwise the server is asked once more. */
const outcomeOf = async (
  api: Api,
  id: string,
  ended: Command | null,
  last: Map<string, Execution>,
): Promise<Outcome> => {
  const command = ended ?? (await api.call(routes.showCommand, { params: { id } }));
  const nodes = Object.values(command.result).reduce((sum, count) => sum + count, 0);
  if (last.size < nodes || ![...last.values()].every(hasEnded)) {
    const executions = everyPage((cursor) =>
      api.call(routes.listExecutions, { params: { id }, query: { limit: 1000, cursor } }),
    );
    for await (const { items } of executions) for (const execution of items) remember(last, execution);
  }
  const executions = [...last.values()].sort((a, b) => (a.node < b.node ? -1 : 1));
  return { command, executions };
};
