import * as z from 'zod/mini';
import { AegisError, type ErrorDetails, isErrorCode } from '../errors.ts';
import type { MessageType } from './messages.ts';
import { costOf, outbox, type Wire } from './outbox.ts';
import type { Opened, Opener, Sealer } from './sealing.ts';

/** One connection after its handshake, the same on both sides: messages to handlers by channel, requests to their answers, credit so that a
 *  slow receiver slows the channel that it is slow on and no other, and a sign of life now and then. It knows no domain and no socket: frames
 *  come in by `take`, go out by a Wire, time passes by `tick`. Invariant: after `end` nothing is sent, and every request has failed. */

export interface Message {
  id: string;
  type: MessageType;
  channel: string;
  body: unknown;
}
/** What it returns answers a request; of an event it is ignored. What it throws is told to who asked, by its code. Until it has returned, what
 *  it was given counts against the sender's credit. */
export type Handler = (message: Message) => unknown;

export interface SessionOptions {
  wire: Wire;
  sealer: Sealer;
  opener: Opener;
  /** By channel; null: nobody listens there. */
  handlerOf(channel: string): Handler | null;
  newId(): string;
  clock: { monotonic(): number };
  heartbeatMs: number;
  /** Called once, when it ended by itself or by `end`. */
  ended(reason: AegisError): void;
}

export interface Session {
  /** A frame came. */
  take(frame: string): void;
  /** Some bytes came, of a frame that may take its time: on a slow way it is under way for longer than silence may last. */
  heard(): void;
  /** Resolves when it is on its way: not before there is credit and room. */
  notify(channel: string, body: unknown): Promise<void>;
  /** The answer. @throws AegisError as the other side said; http.unavailable when the session ends first, or after `timeoutMs` */
  request(channel: string, body: unknown, options: { timeoutMs: number; signal?: AbortSignal }): Promise<unknown>;
  /** Resolves when no request of the other side waits for its answer. */
  answered(): Promise<void>;
  /** To be called about each second. */
  tick(): void;
  end(reason: AegisError): void;
}

/** Of payloads on one channel in one direction that the receiver has not yet done with. Twice the largest message. */
export const WINDOW_BYTES = 2 * 1024 * 1024;
/** At once in one direction: those without an answer. Who asks keeps to it, and who is asked ends the session with who does not. */
const MAX_REQUESTS = 256;
const MAX_WAITING = 10_000;
const MAX_CHANNELS = 64;

const Heartbeat = z.looseObject({
  /** By channel: of the bytes that came on it, how many are done with, since the session began. */
  credit: z.optional(z.record(z.string(), z.int().check(z.minimum(0)))),
});
const Answer = z.looseObject({
  in_reply_to: z.string(),
  result: z.optional(z.unknown()),
  error: z.optional(
    z.object({
      code: z.string(),
      message: z.string(),
      details: z.optional(z.record(z.string(), z.unknown())),
      retry_after_ms: z.optional(z.int().check(z.minimum(0))),
    }),
  ),
});

interface Asked {
  resolve(result: unknown): void;
  reject(error: AegisError): void;
}
/** Bytes of a channel since the session began. */
interface Taken {
  arrived: number;
  done: number;
  /** Of `done`, as the sender knows. */
  told: number;
}

export const session = (options: SessionOptions): Session => {
  const { clock, heartbeatMs, newId } = options;
  const asked = new Map<string, Asked>();
  let places = 0;
  /** Who waits for one. */
  const turns: (() => void)[] = [];
  const taken = new Map<string, Taken>();
  let over: AegisError | null = null;
  let answering = 0;
  const idle: (() => void)[] = [];
  let heardAt = clock.monotonic();
  let beatAt = heardAt;

  const end = (reason: AegisError): void => {
    if (over) return;
    over = reason;
    out.end(reason);
    for (const { reject } of asked.values()) reject(reason);
    asked.clear();
    for (const go of turns.splice(0)) go(); // and hear that it is over
    options.ended(reason);
  };
  const out = outbox({ wire: options.wire, sealer: options.sealer, windowBytes: WINDOW_BYTES, failed: end });
  const send = (type: MessageType, channel: string, body: unknown, id = newId()): Promise<void> =>
    out.send({ id, type, channel }, JSON.stringify(body));

  const done = (channel: string, bytes: number): void => {
    const of = taken.get(channel);
    if (!of) return;
    of.done += bytes;
    if (of.done - of.told >= WINDOW_BYTES / 2 && !over) beat();
  };
  const beat = (): void => {
    const credit: Record<string, number> = {};
    for (const [channel, of] of taken) {
      if (of.done === of.told) continue;
      of.told = of.done;
      credit[channel] = of.done;
    }
    beatAt = clock.monotonic();
    out.urgent(
      { id: newId(), type: 'event', channel: 'heartbeat' },
      JSON.stringify(Object.keys(credit).length > 0 ? { credit } : {}),
    );
  };

  const answer = async (message: Message, bytes: number, handler: Handler | null): Promise<void> => {
    const { channel, id } = message;
    const outcome = await outcomeOf(message, handler);
    done(channel, bytes);
    if (message.type !== 'request' || over) return;
    try {
      await send('response', channel, { in_reply_to: id, ...outcome });
    } catch (error) {
      if (!over) await send('response', channel, { in_reply_to: id, error: told(error) }); // it was too large
    }
  };
  const take = (opened: Opened): void => {
    const bytes = costOf(opened.payload.length);
    const body = parsed(opened.payload);
    if (opened.channel === 'heartbeat') {
      const { credit = {} } = read(Heartbeat, body);
      for (const [channel, total] of Object.entries(credit)) out.credit(channel, total);
      return;
    }
    count(opened.channel, bytes);
    if (opened.type === 'response') {
      const { in_reply_to: id, result, error } = read(Answer, body);
      const waiting = asked.get(id);
      if (!waiting)
        throw new AegisError(
          'channel.bad_frame',
          'The other side answers what it was not asked. The node connects anew.',
        );
      asked.delete(id);
      freePlace();
      if (error) waiting.reject(asError(error));
      else waiting.resolve(result);
      done(opened.channel, bytes);
      return;
    }
    if (opened.type === 'request' && answering >= MAX_REQUESTS)
      throw new AegisError(
        'channel.bad_frame',
        `The other side asks more than ${MAX_REQUESTS} things at once. The node connects anew.`,
      );
    if (opened.type === 'request') answering++;
    const { id, type, channel } = opened;
    answer({ id, type, channel, body }, bytes, options.handlerOf(channel))
      .catch(() => undefined) // the session ended while it was answered: nobody hears it
      .finally(() => {
        if (type === 'request') answering--;
        if (answering === 0) for (const resolve of idle.splice(0)) resolve();
      });
  };
  /** @throws AegisError for more channels than anybody needs (each is remembered), and for more than there was credit for */
  const count = (channel: string, bytes: number): void => {
    const of = taken.get(channel) ?? { arrived: 0, done: 0, told: 0 };
    taken.set(channel, of);
    of.arrived += bytes;
    if (taken.size <= MAX_CHANNELS && of.arrived - of.told <= WINDOW_BYTES) return;
    throw new AegisError(
      'channel.bad_frame',
      `The other side speaks on more than ${MAX_CHANNELS} channels, or says more on one than it was given credit for. The node connects anew.`,
    );
  };
  /** Handed on to who waits longest. */
  const freePlace = (): void => {
    const go = turns.shift();
    if (go) go();
    else places--;
  };
  /** Waits for a place among those that may ask. */
  const place = (given: AbortSignal, timeoutMs: number): Promise<void> | null => {
    if (places < MAX_REQUESTS) {
      places++;
      return null;
    }
    if (turns.length >= MAX_WAITING)
      throw new AegisError('http.unavailable', `More than ${MAX_WAITING} requests wait for the node. Try again later.`);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = (): void => {
      turns.splice(turns.indexOf(resolve), 1);
      reject(late(timeoutMs));
    };
    turns.push(resolve);
    given.addEventListener('abort', onAbort, { once: true });
    return promise.finally(() => given.removeEventListener('abort', onAbort));
  };

  return {
    take: (frame) => {
      if (over) return;
      try {
        take(options.opener.open(frame));
        heardAt = clock.monotonic();
      } catch (error) {
        end(error instanceof AegisError ? error : internal(error));
      }
    },
    heard: () => {
      heardAt = clock.monotonic();
    },
    notify: (channel, body) => send('event', channel, body),
    request: async (channel, body, { timeoutMs, signal }) => {
      const given = AbortSignal.any([AbortSignal.timeout(timeoutMs), ...(signal ? [signal] : [])]);
      given.throwIfAborted();
      const turn = place(given, timeoutMs);
      if (turn) await turn; // else at once: requests go out in the order in which they were made
      if (over) throw over;
      const id = newId();
      const { promise, resolve, reject } = Promise.withResolvers<unknown>();
      // Its place is free again when the answer comes, not when nobody waits for it any more: the other side still works on it.
      asked.set(id, { resolve, reject });
      const onAbort = (): void => reject(signal?.aborted ? signal.reason : late(timeoutMs));
      const unsent = (error: AegisError): void => {
        if (asked.delete(id)) freePlace(); // too large, say: nobody works on it
        reject(error);
      };
      given.addEventListener('abort', onAbort, { once: true });
      if (given.aborted) onAbort(); // while its turn came
      try {
        send('request', channel, body, id).catch(unsent);
        return await promise;
      } finally {
        given.removeEventListener('abort', onAbort);
      }
    },
    answered: () => (answering === 0 ? Promise.resolve() : new Promise((resolve) => idle.push(resolve))),
    tick: () => {
      if (over) return;
      const now = clock.monotonic();
      if (now - heardAt > 2 * heartbeatMs)
        end(
          new AegisError(
            'http.unavailable',
            `Nothing was heard on the channel for ${Math.round((now - heardAt) / 1000)} s: the connection is taken for dead, and made anew.`,
          ),
        );
      else if (now - beatAt >= heartbeatMs) beat();
    },
    end,
  };
};

const parsed = (payload: Buffer): unknown => {
  try {
    return JSON.parse(payload.toString('utf8'));
  } catch {
    throw new AegisError('channel.bad_frame', 'A message of the channel holds no JSON. Give both sides one release.');
  }
};
const read = <T extends z.ZodMiniType>(schema: T, body: unknown): z.infer<T> => {
  const result = z.safeParse(schema, body);
  if (result.success) return result.data;
  throw new AegisError(
    'channel.bad_frame',
    'A message of the channel does not have the shape that its channel demands. Give both sides one release.',
  );
};
const outcomeOf = async (message: Message, handler: Handler | null): Promise<{ result: unknown } | { error: Told }> => {
  try {
    if (!handler) throw noHandler(message.channel);
    return { result: (await handler(message)) ?? null };
  } catch (error) {
    return { error: told(error) };
  }
};
type Told = NonNullable<z.infer<typeof Answer>['error']>;
const told = (error: unknown): Told => {
  const { code, message, details, retryAfterSec } = error instanceof AegisError ? error : internal(error);
  return {
    code,
    message,
    ...(Object.keys(details).length > 0 ? { details } : {}),
    ...(retryAfterSec === undefined ? {} : { retry_after_ms: retryAfterSec * 1000 }),
  };
};
const asError = ({ code, message, details, retry_after_ms }: Told): AegisError =>
  new AegisError(isErrorCode(code) ? code : 'http.internal', message, {
    ...(details ? { details: details as ErrorDetails } : {}),
    ...(retry_after_ms === undefined ? {} : { retryAfterSec: Math.ceil(retry_after_ms / 1000) }),
  });
const noHandler = (channel: string) =>
  new AegisError('channel.no_handler', `Nobody listens on the channel '${channel}' here.`);
const internal = (cause: unknown) =>
  new AegisError('http.internal', 'The other side failed within. Its log says how.', { cause });
const late = (timeoutMs: number) =>
  new AegisError('http.unavailable', `There was no answer on the channel within ${timeoutMs / 1000} s.`);
