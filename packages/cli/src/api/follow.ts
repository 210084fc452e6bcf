import { AegisError } from '@aegis/protocol/errors';
import { type Api, unreachable } from './client.ts';
import { type LogChunk, type ParsedLine, parseLogLine } from './log-line.ts';
import { ndjson } from './ndjson.ts';
import { routes } from './routes.ts';

/** A command's output and states as they come, across broken connections: every byte once, in order, per execution and stream.
 *  After a break the reader names the offsets that it has (`from`); whatever comes twice all the same is trimmed here. */

export type OutputChunk = LogChunk;
export type FollowEvent = ParsedLine;

export interface FollowOptions {
  node?: string | undefined;
  attempt?: number | undefined;
  stream?: 'stdout' | 'stderr' | undefined;
  offset?: number | undefined;
  follow: boolean;
  /** Offsets that the reader already has, by `<execution id>:<stream>`. */
  from?: ReadonlyMap<string, number>;
  signal?: AbortSignal;
  /** Without contact for this long, the reader gives up. */
  giveUpAfterMs: number;
  now(): number;
  pause(ms: number, signal?: AbortSignal): Promise<void>;
  /** Told once for each outage that lasts longer than a moment, and when it is over. */
  onOutage?(state: 'lost' | 'back'): void;
}

const SILENCE_MS = 60_000;
const MAX_FROM_CHARS = 8192;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2_000;

export async function* followLogs(api: Api, commandId: string, options: FollowOptions): AsyncGenerator<FollowEvent> {
  const next = new Map(options.from);
  let lastContact = options.now();
  let failures = 0;
  let outage = false;
  for (;;) {
    try {
      const response = await open(api, commandId, options, next);
      if (outage) options.onOutage?.('back');
      outage = false;
      for await (const line of ndjson(response, options.follow ? SILENCE_MS : 0)) {
        failures = 0;
        lastContact = options.now();
        if (line.length === 0) continue;
        const parsed = parseLogLine(line);
        for (const event of fresh(parsed, next, options)) yield event;
        if (parsed.type === 'end') return;
      }
      if (!options.follow) return; // complete, by a server that closes without an end line
      failures++;
    } catch (error) {
      const broken = brokenConnection(api, error);
      if (broken === null || options.signal?.aborted) throw error;
      if (options.now() - lastContact > options.giveUpAfterMs) throw lostContact(broken, commandId);
      failures++;
      if (failures === 4 && !outage) {
        outage = true;
        options.onOutage?.('lost');
      }
    }
    if (options.signal?.aborted) return;
    await options.pause(Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(failures, 10)), options.signal);
  }
}

const open = (api: Api, id: string, options: FollowOptions, next: ReadonlyMap<string, number>) => {
  const { node, attempt, stream, offset, follow } = options;
  const from = [...next].map(([key, at]) => `${key}:${at}`).join(',');
  const resume = from !== '' && from.length <= MAX_FROM_CHARS ? { from } : {};
  return api.open(routes.readLogs, {
    params: { id },
    query: { node, attempt, stream, offset, ...(follow ? { follow: 'true' } : {}), ...resume },
    headers: { accept: 'application/x-ndjson' },
    ...(options.signal ? { signal: options.signal } : {}),
  });
};

/** What of a line is new, as events; a hole that the server did not announce becomes a gap, so that none is silent. */
function* fresh(line: ParsedLine, next: Map<string, number>, options: FollowOptions): Generator<FollowEvent> {
  if (line.type !== 'chunk' && line.type !== 'gap') return yield line;
  const { execution_id, node, attempt, stream } = line;
  const key = `${execution_id}:${stream}`;
  const have = next.get(key) ?? options.offset ?? 0;
  if (line.offset > have) {
    const reason = 'not sent by the server';
    yield { type: 'gap', execution_id, node, attempt, stream, offset: have, gap: line.offset - have, reason };
  }
  const skip = Math.max(0, have - line.offset);
  if (line.type === 'gap') {
    if (line.gap <= skip) return;
    next.set(key, line.offset + line.gap);
    yield { ...line, offset: line.offset + skip, gap: line.gap - skip };
    return;
  }
  const { bytes } = line;
  if (bytes.length <= skip) return;
  next.set(key, line.offset + bytes.length);
  yield { type: 'chunk', execution_id, node, attempt, stream, offset: line.offset + skip, bytes: bytes.subarray(skip) };
}

/** The error when it tells of the connection (or of a server that is stopping), null when trying again cannot help. */
const brokenConnection = (api: Api, error: unknown): AegisError | null => {
  if (!(error instanceof AegisError)) return unreachable(api.url, error as NodeJS.ErrnoException, true);
  return ['cli.unreachable', 'http.unavailable', 'http.rate_limited'].includes(error.code) ? error : null;
};

const lostContact = (cause: AegisError, commandId: string): AegisError =>
  new AegisError(
    'cli.unreachable',
    `${cause.message} What became of the command is unknown; look later with 'aegis commands show ${commandId}'.`,
    { cause, details: { ...cause.details, command_id: commandId, unknown: true } },
  );
