import { Readable } from 'node:stream';
import { AegisError } from '@aegis/protocol/errors';
import { listed, readEvents } from '@aegis/protocol/events/endpoints';
import { EventId } from '@aegis/protocol/events/event';
import type { FastifyReply } from 'fastify';
import * as z from 'zod/mini';
import { type Route, type RouteContext, route } from '../platform/http/route.ts';
import { type LineFormat, NDJSON, SERVER_SENT } from './event-lines.ts';
import type { EventsService } from './service.ts';
import type { OpenStream } from './streams.ts';

/** events/routes: the stream over HTTP, as server-sent events or NDJSON. */

type Context = RouteContext<typeof readEvents>;

export const eventsRoutes = (events: EventsService): Route[] => [
  route(readEvents, (context) => answerEvents(events, context)),
];

/** The first of our types that the caller names; events for whoever takes anything: that is what a browser asks with. */
const preferred = (accept: string | undefined): LineFormat =>
  (accept ?? '')
    .split(',')
    .map((one) => one.split(';')[0]?.trim().toLowerCase() ?? '')
    .flatMap((type) => [SERVER_SENT, NDJSON].filter(({ contentType }) => contentType === type))[0] ?? SERVER_SENT;

const answerEvents = async (events: EventsService, context: Context): Promise<FastifyReply> => {
  const { query, reply, headers, signal, within, actor } = context;
  if (reply.raw.closed) return reply; // it hung up while we looked who it is
  const format = preferred(headers.accept);
  const stream = events.streams.open({
    actor,
    address: context.remoteAddress,
    bearer: actor.kind === 'dev' ? null : (context.bearer ?? ''),
    cut: () => reply.raw.destroy(),
  });
  if (signal.aborted)
    stream[Symbol.dispose](); // the server is stopping: no 'abort' comes any more
  else signal.addEventListener('abort', () => stream[Symbol.dispose](), { once: true });
  try {
    const texts = await events.read({
      types: query.type === undefined ? null : listed(query.type),
      nodes: query.node === undefined ? null : listed(query.node),
      from: fromOf(headers['last-event-id'], query.from),
      follow: query.follow !== 'false' && query.follow !== '0',
      within,
      isGood: stream.isGood,
      format,
      signal,
    });
    reply.header('content-type', `${format.contentType}; charset=utf-8`).header('x-accel-buffering', 'no');
    return reply.send(Readable.from(watched(texts, stream), { objectMode: false, highWaterMark: 1 }));
  } catch (error) {
    stream[Symbol.dispose]();
    throw error;
  }
};

/** @throws AegisError http.malformed */
const fromOf = (header: string | string[] | undefined, query: string | undefined): number | null => {
  const text = header === undefined || header === '' ? query : String(header);
  if (text === undefined) return null;
  if (!z.safeParse(EventId, text).success)
    throw new AegisError('http.malformed', 'The header Last-Event-ID holds no id of an event.');
  return Number(text);
};

async function* watched(texts: AsyncGenerator<string>, stream: OpenStream): AsyncGenerator<string> {
  for await (const text of texts) {
    stream.sent();
    yield text;
    stream.taken();
  }
}
