/** events: what happens in the fleet, as the command line shows it. Called by the topic `events`.
 *  Invariant: every event once and in order, whatever happens to the connection; what is missing is said. Must not: interpret events. */
import { AegisError } from '@aegis/protocol/errors';
import { type Api, unreachable } from '../api/client.ts';
import { ndjson } from '../api/ndjson.ts';
import { routes } from '../api/routes.ts';

export interface EventsOptions {
  type: string | undefined;
  node: string | undefined;
  /** The last id that the reader has. */
  from: string | undefined;
  follow: boolean;
  signal: AbortSignal;
  /** Without contact for this long, the reader gives up. */
  giveUpAfterMs: number;
  now(): number;
  pause(ms: number, signal?: AbortSignal): Promise<void>;
  /** Told once for each outage that lasts longer than a moment, and when it is over. */
  onOutage(state: 'lost' | 'back'): Promise<void>;
}
/** An event, or a gap; with its text as it came. */
export interface ToldLine {
  text: string;
  line: { type: string; id: string } & Readonly<Record<string, unknown>>;
}

const SILENCE_MS = 60_000;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2000;
/** Tries before somebody is told. */
const QUIET_TRIES = 4;

export async function* followEvents(api: Api, options: EventsOptions): AsyncGenerator<ToldLine> {
  const { signal } = options;
  let { from } = options;
  let lastContact = options.now();
  let failures = 0;
  let outage = false;
  while (!signal.aborted) {
    try {
      const response = await open(api, options, from);
      if (outage) await options.onOutage('back');
      outage = false;
      for await (const bytes of ndjson(response, SILENCE_MS)) {
        failures = 0;
        lastContact = options.now();
        if (bytes.length === 0) continue;
        const told = read(bytes);
        if (told.line.type === 'end') return;
        if (told.line.type !== 'position') yield told;
        from = told.line.id;
      }
      failures++;
    } catch (error) {
      if (signal.aborted) return;
      const broken = brokenConnection(api, error);
      if (broken === null || options.now() - lastContact > options.giveUpAfterMs) throw broken ?? error;
      failures++;
      if (failures === QUIET_TRIES && !outage) {
        outage = true;
        await options.onOutage('lost');
      }
    }
    await options.pause(Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(failures, 10)), signal);
  }
}

const open = (api: Api, { type, node, follow, signal }: EventsOptions, from: string | undefined) =>
  api.open(routes.readEvents, {
    query: { type, node, from, follow: follow ? 'true' : 'false' },
    headers: { accept: 'application/x-ndjson' },
    signal,
  });

const isLine = (value: unknown): value is ToldLine['line'] =>
  typeof value === 'object' &&
  value !== null &&
  'type' in value &&
  typeof value.type === 'string' &&
  'id' in value &&
  typeof value.id === 'string' &&
  /^\d{1,16}$/.test(value.id);

const read = (bytes: Buffer): ToldLine => {
  const text = bytes.toString('utf8');
  let line: unknown;
  try {
    line = JSON.parse(text);
  } catch (cause) {
    throw new AegisError('http.internal', 'The server sent what is no event. Is it an Aegis server of this release?', {
      cause,
    });
  }
  if (isLine(line)) return { text, line };
  throw new AegisError('http.internal', 'The server sent what is no event. Is it an Aegis server of this release?');
};

/** The error when it tells of the connection (or of a server that is stopping), null when trying again cannot help. */
const brokenConnection = (api: Api, error: unknown): AegisError | null => {
  if (!(error instanceof AegisError)) return unreachable(api.url, error as NodeJS.ErrnoException, true);
  return ['cli.unreachable', 'http.unavailable', 'http.rate_limited'].includes(error.code) ? error : null;
};
