import type { Session } from '@aegis/protocol/channel/session';
import { AegisError } from '@aegis/protocol/errors';
import { type Clock, pause } from '../platform/clock.ts';
import { backoff } from '../platform/http/backoff.ts';
import { Unreachable } from '../platform/http/client.ts';
import type { Logger } from '../platform/log.ts';
import type { Link } from './link.ts';

/** Keeps the node's channel up: connects, makes the next connection before the server ends this one, and after a failure waits longer each
 *  time, with jitter, so that a fleet does not come back all at once. While there is none, everything goes by HTTP. */

export interface LinkLoopOptions {
  open(signal: AbortSignal): Promise<Link>;
  /** Asked for when the server has a key that is not known: a newer trust bundle may name it.
   *  @returns whether another bundle is in force now */
  refreshTrust(): Promise<boolean>;
  /** The session that is up has changed. */
  changed(session: Session | null): void;
  clock: Clock;
  random: () => number;
  log: Logger;
  signal: AbortSignal;
}

export interface LinkStatus {
  up: boolean;
  lastError: string | null;
}

const FIRST_MS = 1000;
const MAX_MS = 30_000;
/** A connection that lasted so long was a good one. */
const GOOD_MS = 10_000;
/** Of a connection that another took the place of: what was asked on it may have its answer. */
const HANDOVER_MS = 5000;
const TELL_SKEW_MS = 30_000;
/** A refusal that only people can change is not asked for every few seconds. */
const REFUSED_MS = 60_000;

export const linkLoop = (options: LinkLoopOptions): { status(): LinkStatus; done: Promise<void> } => {
  const { clock, random, log, signal } = options;
  const waiting = backoff({ firstMs: FIRST_MS, maxMs: MAX_MS, random });
  let live: Link | null = null;
  let lastError: string | null = null;

  const replace = (link: Link): void => {
    live = link;
    lastError = null;
    options.changed(link.session);
    void link.ended.then((reason) => {
      if (reason.code.startsWith('channel.'))
        log.warn({ code: reason.code }, `the channel was ended: ${reason.message}`); // an attack, or two releases that do not fit
      if (live !== link) return;
      live = null;
      lastError = reason.message;
      options.changed(null);
    });
  };
  const failed = async (error: unknown): Promise<void> => {
    const failure = error instanceof Error ? error : new Error(String(error));
    lastError = failure.message;
    const refused = error instanceof AegisError;
    const pauseMs = waiting.next(error instanceof Unreachable ? error.retryAfterMs : refused ? REFUSED_MS : 0);
    if (waiting.failures === 1)
      log[refused ? 'warn' : 'info'](
        { err: failure, retry_ms: Math.round(pauseMs) },
        live
          ? 'the channel to the server could not be renewed, trying again'
          : 'no channel to the server: polling instead',
      );
    if (refused && error.code === 'channel.bad_handshake') {
      const learnt = await options.refreshTrust().catch((cause: unknown) => {
        log.debug({ err: cause }, 'the trust bundle was not asked for');
        return false;
      });
      // The server has got another key meanwhile, perhaps.
      if (learnt) return waiting.reset();
    }
    await pause(pauseMs, signal);
  };
  const run = async (): Promise<void> => {
    while (!signal.aborted) {
      try {
        const link = await options.open(signal);
        const before = live;
        const begunAt = clock.monotonic();
        replace(link);
        // The server ends the older one as soon as the newer has shown its keys, and what was asked on it is asked again; but not where the
        // newer came to another of its processes: to that one and the older's the node would be there, and both would give it its messages.
        if (before) void pause(HANDOVER_MS, signal).then(() => before.end(replaced()));
        if (!before) log.info('the channel to the server is up');
        if (Math.abs(link.skewMs) > TELL_SKEW_MS)
          log.warn(
            { skew_ms: Math.round(link.skewMs) },
            "this machine's clock differs from the server's: set it (NTP)",
          );
        await untilDue(link, clock, signal);
        if (clock.monotonic() - begunAt >= GOOD_MS) waiting.reset();
        else await pause(waiting.next(), signal);
      } catch (error) {
        if (signal.aborted) return;
        await failed(error);
      }
    }
  };
  const done = run().finally(() => live?.end(new AegisError('http.unavailable', 'The daemon stops.')));
  return { status: () => ({ up: live !== null, lastError }), done };
};

const replaced = () => new AegisError('http.unavailable', 'Another connection took the place of this one.');

/** Until it ended, or the next one is to be made. */
const untilDue = async (link: Link, clock: Clock, signal: AbortSignal): Promise<void> => {
  const over = new AbortController();
  void link.ended.then(() => over.abort());
  const leftMs = Math.max(0, link.renewAtMs - clock.monotonic());
  await pause(Math.min(leftMs, 2 ** 31 - 1), AbortSignal.any([over.signal, signal])).catch(() => undefined);
};
