import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { openAnswer } from '@aegis/protocol/channel/handshake';
import type { AuthenticationResponse } from '@aegis/protocol/channel/messages';
import { sealer } from '@aegis/protocol/channel/sealing';
import type { EventLine, FleetEvent } from '@aegis/protocol/events/event';
import { waitFor } from '../../../test/faults/wait.ts';
import { headersOf, open, requestOf } from './channel-support.ts';
import type { EnrolledNode, TestServer } from './start-test-server.ts';

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
  token: string | null,
  query: Wanted = {},
  headers: Wanted = {},
): Promise<EventReader> => {
  const stopping = new AbortController();
  const search = new URLSearchParams(query);
  const answer = await fetch(`${url}/api/v1/events?${search}`, {
    headers: {
      ...(token === null ? {} : { authorization: `Bearer ${token}` }),
      accept: 'application/x-ndjson',
      ...headers,
    },
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

/** The node's own connection, proven by its hello. */
export const connectedNode = async (server: TestServer, node: EnrolledNode): Promise<AsyncDisposable> => {
  const raw = await open(`${server.url.replace('http', 'ws')}/ws/agent`, headersOf(node));
  const { request, ephemeral } = requestOf(node, {}, server.running.fleet);
  raw.ws.send(JSON.stringify(request));
  const answer = JSON.parse(await raw.next()) as AuthenticationResponse;
  if (!answer.success) throw new Error(answer.message);
  const keys = openAnswer({ fleet: server.running.fleet, isServerKey: () => true, ephemeral }, request, answer);
  const { seal } = sealer({
    key: keys.nodeToServer,
    direction: 'node to server',
    rotation: { messages: 100, ms: 1e9 },
    clock: { now: () => Date.now(), monotonic: () => performance.now() },
    signing: null,
  });
  raw.ws.send(seal({ id: 'a', type: 'event', channel: 'hello' }, '{"version":"0.1.0"}'));
  return {
    [Symbol.asyncDispose]: async () => {
      raw.ws.close();
      await raw.closed;
    },
  };
};

/** Reads on and on, each time for a while, from the last id that it had: what a client does whose connection breaks all the time. */
export const restlessReader = (urlOf: () => string, token: string | null, random: () => number, query: Wanted = {}) => {
  const lines: Line[] = [];
  let stopped = false;
  let lives = 0;
  const run = async (): Promise<void> => {
    let from = '0';
    while (!stopped) {
      try {
        await using reader = await readEventsFrom(urlOf(), token, { ...query, from });
        const until = performance.now() + 20 + random() * 300;
        await waitFor('its time', () => reader.isOver() || stopped || performance.now() > until);
        await reader.stop();
        if (reader.status !== 200) continue;
        lives++;
        lines.push(...reader.lines.filter(({ type }) => type !== 'position'));
        from = reader.lastId() ?? from;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 20)); // nobody is there
      }
    }
  };
  const running = run();
  return {
    lines,
    lives: () => lives,
    stop: async (): Promise<void> => {
      stopped = true;
      await running;
    },
  };
};
