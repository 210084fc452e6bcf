import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import type { EventLine, FleetEvent } from '@aegis/protocol/events/event';
import { waitFor } from '../../../test/faults/wait.ts';

/** A reader of events, as NDJSON or as what a browser reads. */

type Wanted = Readonly<Record<string, string>>;
export type Line = EventLine & Readonly<Record<string, unknown>>;

export interface EventReader extends AsyncDisposable {
  readonly status: number;
  readonly headers: Headers;
  /** Everything that was told, gaps and positions too. */
  readonly lines: readonly Line[];
  /** Of these, events alone. */
  events(): (FleetEvent & Readonly<Record<string, unknown>>)[];
  /** Where to go on: of whatever said an id last. */
  lastId(): string | undefined;
  readonly ended: Promise<void>;
  readonly isOver: () => boolean;
  stop(): Promise<void>;
  wait(what: string, until: (lines: readonly Line[]) => boolean): Promise<void>;
}

const isEvent = ({ type }: Line): boolean => !['gap', 'position', 'end'].includes(type);

export const readEventsFrom = async (
  url: string,
  token: string,
  query: Wanted = {},
  headers: Wanted = {},
): Promise<EventReader> => {
  const stopping = new AbortController();
  const search = new URLSearchParams(query);
  const answer = await fetch(`${url}/api/v1/events?${search}`, {
    headers: { authorization: `Bearer ${token}`, accept: 'application/x-ndjson', ...headers },
    signal: stopping.signal,
  });
  const lines: Line[] = [];
  let lastId: string | undefined;
  let over = false;
  const read = async (): Promise<void> => {
    if (!answer.body) return;
    for await (const text of createInterface({ input: Readable.fromWeb(answer.body as never) })) {
      if (text.startsWith('id: ')) lastId = text.slice(4);
      const json = text.startsWith('data: ') ? text.slice(6) : text.startsWith('{') ? text : null;
      if (json === null) continue;
      const line = JSON.parse(json) as Line;
      lines.push(line);
      lastId = line.id;
    }
  };
  const ended = read()
    .catch(() => undefined) // cut, as the test wanted it or not: what was read tells
    .finally(() => {
      over = true;
    });
  const stop = async (): Promise<void> => {
    stopping.abort();
    await ended;
  };
  return {
    status: answer.status,
    headers: answer.headers,
    lines,
    events: () => lines.filter(isEvent) as never,
    lastId: () => lastId,
    ended,
    isOver: () => over,
    stop,
    wait: (what, until) => waitFor(what, () => until(lines)),
    [Symbol.asyncDispose]: stop,
  };
};
