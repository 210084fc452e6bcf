import type { Command, Execution } from '@aegis/protocol/commands/submission';
import type { Api } from '../api/client.ts';
import { type FollowOptions, followLogs } from '../api/follow.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import type { Sink } from './sink.ts';

/** `aegis logs -f`: the output of every command that runs now (from here on) and of every one that comes, until interrupted.
 *  The list of commands is asked once a second, back to where it was read before; each command is followed on a stream of its own,
 *  at most 32 at once. What comes beyond that waits its turn on the server. */

const EVERY_MS = 1000;
const AT_ONCE = 32;
/** Ids rise with time, but a command may show up after one that was made a moment later. */
const OVERLAP_MS = 10_000;
const MOST_NEW = 1000;

type Reading = Pick<FollowOptions, 'now' | 'pause' | 'giveUpAfterMs'>;

export const followEverything = async (
  api: Api,
  sink: Sink,
  reading: Reading,
  say: (text: string) => Promise<void>,
): Promise<never> => {
  /** Taken up already; those from the overlap on. */
  const seen = new Set<string>();
  let newest = '';
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
      const take = (id: string): void => {
        seen.add(id);
        if (id > newest) newest = id;
      };
      if (first) {
        const { items } = await api.call(routes.listCommands, { query: { limit: 1000 } });
        for (const command of items.toReversed()) {
          take(command.command_id);
          if (isOpen(command)) follow(command.command_id, await endsOf(api, command.command_id));
        }
      } else if (running.size < AT_ONCE) {
        for (const id of await newSince(api, overlapOf(newest), seen)) {
          if (running.size >= AT_ONCE) break; // found again at a later look
          take(id);
          follow(id, new Map());
        }
      }
      lastContact = reading.now();
      const from = overlapOf(newest);
      for (const id of seen) if (id < from) seen.delete(id);
      if (first) await say(`following ${running.size} running commands and whatever comes; Ctrl-C ends this.`);
      first = false;
    } catch (error) {
      if (first || reading.now() - lastContact > reading.giveUpAfterMs) throw error;
    }
    await reading.pause(EVERY_MS);
    if (failure) throw failure;
  }
};

/** Ids from `from` on that are not seen yet, the oldest first; of very many the oldest. */
const newSince = async (api: Api, from: string, seen: ReadonlySet<string>): Promise<string[]> => {
  const found: string[] = [];
  const pages = everyPage((cursor) => api.call(routes.listCommands, { query: { limit: cursor ? 1000 : 100, cursor } }));
  for await (const { items } of pages) {
    for (const { command_id: id } of items) if (id >= from && !seen.has(id)) found.push(id);
    if (found.length > MOST_NEW) found.splice(0, found.length - MOST_NEW);
    if (items.some(({ command_id }) => command_id < from)) break;
  }
  return found.reverse();
};

/** A UUIDv7 begins with its time: what comes before the id's by the overlap, as the beginning of an id. */
const overlapOf = (id: string): string => {
  const madeMs = Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16);
  if (!(madeMs > OVERLAP_MS)) return '';
  const time = (madeMs - OVERLAP_MS).toString(16).padStart(12, '0');
  return `${time.slice(0, 8)}-${time.slice(8)}`;
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
