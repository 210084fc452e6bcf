import { Readable } from 'node:stream';
import { type LogLine, readLogs } from '@aegis/protocol/commands/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import type { FastifyReply } from 'fastify';
import { parseRange } from '../platform/http/byte-range.ts';
import { type Route, type RouteContext, route } from '../platform/http/route.ts';
import type { Within } from '../platform/node-scope.ts';
import type { CommandsService } from './service.ts';
import type { Gap, StreamBytes } from './stream-bytes.ts';

/** Reading output over HTTP: NDJSON or events of a whole command, or the bytes of one stream. Everything streams: what a slow
 *  reader does not take is not read from the database. */

type Context = RouteContext<typeof readLogs>;

const NDJSON = 'application/x-ndjson';
const EVENTS = 'text/event-stream';
const BYTES = 'application/octet-stream';

export const logRoutes = (commands: CommandsService): Route[] => [
  route(readLogs, (context) =>
    preferred(context.headers.accept) === BYTES ? answerBytes(commands, context) : answerLines(commands, context),
  ),
];

/** The first of our types that the caller names; NDJSON for whoever takes anything. */
const preferred = (accept: string | undefined): string =>
  (accept ?? '')
    .split(',')
    .map((one) => one.split(';')[0]?.trim().toLowerCase() ?? '')
    .find((type) => type === NDJSON || type === EVENTS || type === BYTES) ?? NDJSON;

const follows = (follow: string | undefined): boolean => follow !== undefined && follow !== 'false' && follow !== '0';

const answerLines = async (commands: CommandsService, context: Context): Promise<FastifyReply> => {
  const { query, params, within, reply, headers, signal } = context;
  const type = preferred(headers.accept);
  const lines = await commands.logLines({
    commandId: params.id,
    within,
    node: query.node,
    attempt: query.attempt,
    stream: query.stream,
    offset: query.offset,
    from: new Map((query.from ?? '').split(',').flatMap(resumePoint)),
    follow: follows(query.follow),
    signal,
  });
  reply.header('content-type', `${type}; charset=utf-8`).header('x-accel-buffering', 'no');
  return reply.send(Readable.from(texts(lines, type === EVENTS), { objectMode: false, highWaterMark: 1 }));
};

const resumePoint = (text: string): [string, number][] => {
  const [execution, stream, offset] = text.split(':');
  return execution && stream && offset ? [[`${execution}:${stream}`, Number(offset)]] : [];
};

async function* texts(lines: AsyncGenerator<LogLine | null>, events: boolean): AsyncGenerator<string> {
  for await (const line of lines) {
    if (line === null) yield events ? ':\n\n' : '\n';
    else yield events ? `data: ${jsonOf(line)}\n\n` : `${jsonOf(line)}\n`;
  }
}

/** Base64 has nothing to escape: looking for it in a megabyte would cost more than reading it from the database. */
const jsonOf = (line: LogLine): string => {
  if (line.type !== 'chunk' || line.encoding !== 'base64') return JSON.stringify(line);
  const { data, ...rest } = line;
  return `${JSON.stringify(rest).slice(0, -1)},"data":"${data}"}`;
};

const answerBytes = async (commands: CommandsService, context: Context): Promise<FastifyReply> => {
  const { query, params, within, reply, headers, signal } = context;
  const { stream } = query;
  if (stream === undefined)
    throw new AegisError('http.malformed', 'Bytes are of one stream: add stream=stdout or stream=stderr.');
  const found = await commands.streamBytes(params.id, { within, node: query.node, attempt: query.attempt, stream });
  reply
    .header('content-type', BYTES)
    .header('aegis-execution', found.execution.id)
    .header('aegis-state', found.execution.state);
  if (follows(query.follow))
    return sendFollowed(found, query.offset ?? 0, signal, reply, () => laterGaps(commands, found, within));
  if (found.gaps.length > 0) reply.header('aegis-gaps', gapList(found.gaps));
  return sendStored(found, query.offset, headers.range, reply);
};

const sendStored = (
  found: StreamBytes,
  offset: number | undefined,
  rangeHeader: string | undefined,
  reply: FastifyReply,
): FastifyReply => {
  const { stored } = found;
  let from = Math.min(offset === undefined ? 0 : found.positionOf(offset), stored);
  let length = stored - from;
  if (offset === undefined) {
    reply.header('accept-ranges', 'bytes');
    const range = parseRange(rangeHeader, stored);
    if (range === 'unsatisfiable') return reply.code(416).header('content-range', `bytes */${stored}`).send();
    if (range) {
      reply.code(206).header('content-range', `bytes ${range.start}-${range.end}/${stored}`);
      from = range.start;
      length = range.end - range.start + 1;
    }
  }
  reply.header('content-length', length);
  return reply.send(bytesOf(found.read(from, length)));
};

const sendFollowed = (
  found: StreamBytes,
  offset: number,
  signal: AbortSignal,
  reply: FastifyReply,
  gaps: () => Promise<readonly Gap[]>,
): FastifyReply => {
  // Known only at the end; whoever reads trailers learns what is missing, everybody else asks again without follow.
  reply.trailer('aegis-gaps', async () => gapList(await gaps()));
  reply.send(bytesOf(found.follow(offset, signal)));
  reply.raw.flushHeaders(); // the first byte may be hours away
  return reply;
};

const laterGaps = async (
  commands: CommandsService,
  { execution, stream }: StreamBytes,
  within: Within,
): Promise<readonly Gap[]> => {
  const { node_uid: node, attempt } = execution;
  return (await commands.streamBytes(execution.command_id, { within, node, attempt, stream })).gaps;
};

const bytesOf = (source: AsyncGenerator<Buffer>): Readable =>
  Readable.from(source, { objectMode: false, highWaterMark: 1 });

const GAPS_NAMED = 50;
/** `start-end;reason` of each, ends included; `+N` when there are N more. */
const gapList = (gaps: readonly Gap[]): string =>
  [
    ...gaps
      .slice(0, GAPS_NAMED)
      .map(({ start, length, reason }) => `${start}-${start + length - 1};${encodeURIComponent(reason).slice(0, 100)}`),
    ...(gaps.length > GAPS_NAMED ? [`+${gaps.length - GAPS_NAMED}`] : []),
  ].join(', ');
