/** messages: what operators say to this node on channels of their own, given to the programs that its configuration names. Called by the
 *  channel's session for what comes over it, and by its own loop while there is none. Invariant: nothing is answered that is not on disk.
 *  Must not: run anything that the node's own configuration does not name, or pass a message through a shell or an argument. */
import { join } from 'node:path';
import type { Handler } from '@aegis/protocol/channel/session';
import { isBuiltIn } from '@aegis/protocol/messages/message';
import type { Clock } from '../platform/clock.ts';
import { endLeftHooks } from '../platform/hook-process.ts';
import type { HttpClient } from '../platform/http/client.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { Logger } from '../platform/log.ts';
import type { MessageHooks } from './hook.ts';
import { inbox } from './inbox.ts';
import { messagePollLoop } from './poll-loop.ts';
import { messagesRepository } from './repository.ts';

export interface MessagesOptions {
  dataDir: string;
  nodeName: string;
  hooks: MessageHooks;
  journal: Journal;
  client: HttpClient;
  /** @throws AegisError access.policy where this node takes no message on a server's word */
  requireAllowed(): void;
  /** Null: this node asks for none, all comes over the channel. */
  polls: { up(): boolean; onChange(listener: () => void): void; graceMs: number; waitSec: number } | null;
  clock: Clock;
  random: () => number;
  log: Logger;
}

const STOP_MS = 5000;

export const messagesService = (options: MessagesOptions) => {
  const { log, hooks } = options;
  const notes = join(options.dataDir, 'hooks');
  endLeftHooks(notes);
  const taking = inbox({ ...options, repository: messagesRepository(options.journal), notes });
  const polling = new AbortController();
  let loop = Promise.resolve();
  return {
    /** For the hello: where the server may speak. */
    channels: Object.keys(hooks).sort(),
    /** Null: a channel of Aegis' own, on which no message comes. */
    handlerOf: (channel: string): Handler | null =>
      isBuiltIn(channel)
        ? null
        : ({ type, body }) => (type === 'request' ? taking.take(channel, body) : Promise.resolve()),
    start: (): void => {
      const { polls, client, random } = options;
      if (polls)
        loop = messagePollLoop({
          ...polls,
          client,
          inbox: taking,
          channel: polls,
          random,
          log,
          signal: polling.signal,
        });
    },
    drain: taking.drain,
    tidy: taking.tidy,
    stop: async (): Promise<void> => {
      await taking.stop(STOP_MS);
      polling.abort();
      await loop;
    },
  };
};
export type MessagesService = ReturnType<typeof messagesService>;
