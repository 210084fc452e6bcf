import type { Command, Execution } from '@aegis/protocol/commands/submission';
import type { Api } from '../api/client.ts';
import { type FollowOptions, followLogs } from '../api/follow.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import type { Sink } from './sink.ts';

/** `aegis logs -f`: the output of every command that runs now (from here on) and of every one that comes, until interrupted.
 *  The list of commands is asked once a second; each command is followed on a stream of its own, at most 32 at once. */

const EVERY_MS = 1000;
const AT_ONCE = 32;

type Reading = Pick<FollowOptions, 'now' | 'pause' | 'giveUpAfterMs'>;

export const followEverything = async (
  api: Api,
  sink: Sink,
  reading: Reading,
  say: (text: string) => Promise<void>,
): Promise<never> => {
  const seen = new Set<string>();
  const running = new Map<string, Promise<void>>();
  let failure: unknown = null;
  const follow = (id: string, from: ReadonlyMap<string, number>): void => {
    const work = followOne(api, id, sink, { ...reading, follow: true, from })
      .catch((error: unknown) => {
        failure ??= error;
      })
      .finally(() => running.delete(id));
    running.set(id, work);
  };

  let first = true;
  let lastContact = reading.now();
  for (;;) {
    try {
      const { items } = await api.call(routes.listCommands, { query: { limit: first ? 1000 : 100 } });
      lastContact = reading.now();
      for (const command of items.toReversed()) {
        if (seen.has(command.command_id)) continue;
        if (!first && running.size >= AT_ONCE) break; // seen at a later look
        seen.add(command.command_id);
        if (!first) follow(command.command_id, new Map());
        else if (isOpen(command)) follow(command.command_id, await endsOf(api, command.command_id));
      }
      if (first) await say(`following ${running.size} running commands and whatever comes; Ctrl-C ends this.`);
      first = false;
    } catch (error) {
      if (first || reading.now() - lastContact > reading.giveUpAfterMs) throw error;
    }
    await reading.pause(EVERY_MS);
    if (failure) throw failure;
  }
};

const isOpen = ({ state }: Command): boolean => state === 'pending' || state === 'running';

const followOne = async (api: Api, id: string, sink: Sink, options: FollowOptions): Promise<void> => {
  for await (const event of followLogs(api, id, options)) {
    if (event.type === 'chunk') await sink.chunk(event);
    else if (event.type === 'gap') await sink.gap(event);
    else if (event.type === 'state') await sink.state(event.execution);
  }
};

const endsOf = async (api: Api, id: string): Promise<Map<string, number>> => {
  const ends = new Map<string, number>();
  const note = ({ execution_id, output }: Execution) => {
    if (output.stdout.next > 0) ends.set(`${execution_id}:stdout`, output.stdout.next);
    if (output.stderr.next > 0) ends.set(`${execution_id}:stderr`, output.stderr.next);
  };
  const pages = everyPage((cursor) =>
    api.call(routes.listExecutions, { params: { id }, query: { limit: 1000, cursor } }),
  );
  for await (const { items } of pages) items.forEach(note);
  return ends;
};
