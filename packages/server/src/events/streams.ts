import { AegisError } from '@aegis/protocol/errors';
import type { OperatorActor } from '../platform/http/actor.ts';

/** The streams that are open at this process: how many one caller may have, whether its token still is good, and whether anybody takes what
 *  it is sent. */

export interface StreamLimits {
  /** Of all callers. */
  most: number;
  /** Of one token, and from one address. */
  mostEach: number;
  /** How long what was sent may lie untaken before the connection is cut. */
  stallMs: number;
}
export interface StreamFacts {
  actor: OperatorActor;
  address: string;
  /** Null: the caller needs no credential. */
  bearer: string | null;
  cut(): void;
}
export interface OpenStream extends Disposable {
  /** Asked before anything is told; the answer is kept for a moment. */
  isGood(): Promise<boolean>;
  /** Around each text: between the two nobody took it. */
  sent(): void;
  taken(): void;
}

const TICK_MS = 1000;
/** How long a token that was good is taken to be so. */
const GOOD_MS = 250;
const RETRY_SEC = 5;

export const openStreams = (on: {
  limits: StreamLimits;
  /** Who has this token now. @throws AegisError when nobody has */
  actorOf: (bearer: string) => Promise<OperatorActor>;
  stopping: AbortSignal;
}) => {
  const { limits } = on;
  const open = new Set<{ facts: StreamFacts; isGood(): Promise<boolean>; sentAt: number | null }>();
  const counts = new Map<string, number>();
  const good = new Map<string, { at: number; actor: Promise<OperatorActor | null> }>();

  const count = (keys: readonly string[], by: number): void => {
    for (const key of keys) {
      const now = (counts.get(key) ?? 0) + by;
      if (now > 0) counts.set(key, now);
      else counts.delete(key);
    }
  };
  /** A database that is away is no reason to end a stream: nothing is told meanwhile either. */
  const actorNow = (bearer: string): Promise<OperatorActor | null> => {
    const known = good.get(bearer);
    if (known && performance.now() - known.at < GOOD_MS) return known.actor;
    const actor = on.actorOf(bearer).catch((error: unknown) => {
      if (error instanceof AegisError && error.code === 'http.unavailable') throw error;
      return null;
    });
    actor.catch(() => good.delete(bearer));
    good.set(bearer, { at: performance.now(), actor });
    return actor;
  };
  const isSame = (now: OperatorActor | null, { actor }: StreamFacts): boolean =>
    now !== null && now.id === actor.id && now.role === actor.role && now.scope === actor.scope;

  const tick = (): void => {
    const now = performance.now();
    for (const [bearer, { at }] of good) if (now - at > GOOD_MS) good.delete(bearer);
    for (const stream of [...open]) {
      if (stream.sentAt !== null && now - stream.sentAt > limits.stallMs) stream.facts.cut();
      else
        stream.isGood().then(
          (isGood) => isGood || stream.facts.cut(),
          () => undefined, // looked again at the next tick
        );
    }
  };
  const ticking = setInterval(tick, TICK_MS);
  ticking.unref();
  on.stopping.addEventListener('abort', () => clearInterval(ticking), { once: true });

  return {
    /** @throws AegisError http.rate_limited, http.unavailable */
    open: (facts: StreamFacts): OpenStream => {
      const { actor, address, bearer } = facts;
      if (open.size >= limits.most)
        throw new AegisError(
          'http.unavailable',
          `The server has ${limits.most} streams of events, as many as it takes (events.max_streams).`,
          {
            retryAfterSec: RETRY_SEC,
          },
        );
      const keys = [`address ${address}`, ...(actor.kind === 'token' ? [`token ${actor.id}`] : [])];
      const full = keys.find((key) => (counts.get(key) ?? 0) >= limits.mostEach);
      if (full !== undefined)
        throw new AegisError(
          'http.rate_limited',
          `This ${full.split(' ')[0]} has ${limits.mostEach} streams of events, as many as one may (events.max_streams_each). End one first.`,
          { retryAfterSec: RETRY_SEC },
        );
      const stream = {
        facts,
        sentAt: null as number | null,
        isGood: async () => bearer === null || isSame(await actorNow(bearer), facts),
      };
      count(keys, 1);
      open.add(stream);
      return {
        isGood: stream.isGood,
        sent: () => {
          stream.sentAt = performance.now();
        },
        taken: () => {
          stream.sentAt = null;
        },
        [Symbol.dispose]: () => {
          if (open.delete(stream)) count(keys, -1);
        },
      };
    },
    size: (): number => open.size,
  };
};
export type OpenStreams = ReturnType<typeof openStreams>;
