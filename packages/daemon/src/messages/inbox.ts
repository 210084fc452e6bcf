import { AegisError, isErrorCode } from '@aegis/protocol/errors';
import { GivenMessage, type MessageReply } from '@aegis/protocol/messages/message';
import { validate } from '@aegis/protocol/validation';
import type { Clock } from '../platform/clock.ts';
import type { Logger } from '../platform/log.ts';
import { type MessageHooks, runMessageHook } from './hook.ts';
import type { MessagesRepository, Outcome } from './repository.ts';

/** A message's one way through this node, whatever way it came: its id is journaled before its hook begins, what came of that before it is
 *  answered. So a message that comes again is answered from the journal, or joins the hook that runs for it; only one whose hook was running
 *  when the daemon, or the machine, died is given to its hook again. One channel's messages go one after the other. */

export interface InboxOptions {
  hooks: MessageHooks;
  repository: MessagesRepository;
  nodeName: string;
  /** Folder of the notes of hooks that run. */
  notes: string;
  /** @throws AegisError access.policy where this node takes no message on a server's word */
  requireAllowed(): void;
  clock: Clock;
  log: Logger;
}

/** Ids that are remembered at once, and characters of what came of them: beyond it the server keeps what it has until some may go. */
const MAX_REMEMBERED = 20_000;
const MAX_CHARS = 32 * 1024 * 1024;
const FULL_RETRY_SEC = 60;
/** More of one channel at once come from no server of ours. */
const MAX_WAITING = 16;
/** The server gives no message after it expired by its own clock, which may be another than ours. */
const SKEW_MS = 10 * 60_000;
const LONGEST_MS = 7 * 86_400_000 + SKEW_MS;

export const inbox = (options: InboxOptions) => {
  const { hooks, repository, clock, log } = options;
  const stopping = new AbortController();
  const running = new Map<string, Promise<Outcome>>();
  /** By channel: the last of those that wait for their turn, and how many do. */
  const lanes = new Map<string, { last: Promise<unknown>; waiting: number }>();
  /** What came of hooks and could not be journaled: while there is any, no hook begins, so these are no more than channels. */
  const ended = new Map<string, Outcome>();
  let draining = false;

  /** @throws AegisError journal.* */
  const finish = async (id: string, outcome: Outcome): Promise<Outcome> => {
    try {
      await repository.finish(id, outcome);
    } catch (error) {
      ended.set(id, outcome);
      throw error;
    }
    ended.delete(id);
    return outcome;
  };
  /** The same, when the journal cannot take what it could not before. */
  const finishEnded = async (): Promise<void> => {
    await Promise.all([...ended].map(([id, outcome]) => finish(id, outcome)));
  };
  const runHook = async (
    channel: string,
    { message_id: id, message_type: type, message }: GivenMessage,
  ): Promise<Outcome> => {
    const hook = hooks[channel];
    if (!hook) throw noHook(channel);
    try {
      const reply = await runMessageHook(
        hook,
        { id, channel, type, text: JSON.stringify(message) },
        { ...options, signal: stopping.signal },
      );
      return { reply };
    } catch (error) {
      stopping.signal.throwIfAborted(); // it is given to its hook again by the next daemon
      if (!(error instanceof AegisError)) throw error;
      log.warn({ channel, message_id: id, code: error.code }, `a message failed: ${error.message}`);
      return { error: { code: error.code, message: error.message } };
    }
  };
  const work = async (channel: string, given: GivenMessage): Promise<Outcome> => {
    const { message_id: id } = given;
    requireRunning();
    await finishEnded();
    const until = Math.min(Date.parse(given.expires_at), clock.now() + LONGEST_MS) + SKEW_MS;
    await repository.begin(id, channel, until);
    return finish(id, await runHook(channel, given));
  };
  /** After those of its channel that came before. */
  const inTurn = (channel: string, task: () => Promise<Outcome>): Promise<Outcome> => {
    const lane = lanes.get(channel) ?? { last: Promise.resolve(), waiting: 0 };
    if (lane.waiting >= MAX_WAITING)
      throw new AegisError('http.rate_limited', 'Too many messages of this channel at once.', { retryAfterSec: 5 });
    lanes.set(channel, lane);
    lane.waiting++;
    const mine = lane.last.then(task, task);
    lane.last = mine
      .catch(() => undefined)
      .finally(() => {
        lane.waiting--;
        if (lane.waiting === 0) lanes.delete(channel);
      });
    return mine;
  };
  const requireRunning = (): void => {
    if (draining || stopping.signal.aborted)
      throw new AegisError('http.unavailable', 'The node takes nothing at this moment: it is draining, or stops.', {
        retryAfterSec: 5,
      });
  };
  const requireRoom = (): void => {
    const { count, chars } = repository.size();
    if (count >= MAX_REMEMBERED || chars >= MAX_CHARS)
      throw new AegisError('http.unavailable', 'The node remembers as many messages as it can.', {
        retryAfterSec: FULL_RETRY_SEC,
      });
  };

  const outcomeOf = async (channel: string, given: GivenMessage): Promise<Outcome> => {
    const { message_id: id } = given;
    const known = repository.find(id);
    if (known?.outcome) return known.outcome;
    const begun = running.get(id);
    if (begun) return begun;
    const unsaid = ended.get(id);
    if (unsaid) return finish(id, unsaid); // its hook has ended: never again
    if (!Object.hasOwn(hooks, channel)) throw noHook(channel);
    options.requireAllowed();
    requireRunning();
    if (!known) {
      if (Date.parse(given.expires_at) < clock.now() - SKEW_MS)
        throw new AegisError('messages.expired', 'The message had expired when it came. Are the clocks right?');
      requireRoom();
    } else log.warn({ channel, message_id: id }, 'the hook of this message was cut off, and is given it again');
    const mine = inTurn(channel, () => work(channel, given));
    running.set(id, mine);
    try {
      return await mine;
    } finally {
      running.delete(id);
    }
  };

  return {
    /** What is to be answered. @throws AegisError channel.no_handler, messages.*, access.policy, http.malformed; http.unavailable,
     *  http.rate_limited, journal.*: then it may come again */
    take: async (channel: string, body: unknown): Promise<MessageReply> => {
      const checked = validate(GivenMessage, body, 'message');
      if (!checked.ok)
        throw new AegisError(
          'http.malformed',
          `The message is malformed: ${checked.refusal.field}: ${checked.refusal.reason}.`,
        );
      const outcome = await outcomeOf(channel, checked.value);
      if ('reply' in outcome) return outcome.reply;
      const { code, message } = outcome.error;
      throw new AegisError(isErrorCode(code) ? code : 'messages.hook_failed', message);
    },
    drain: (now: boolean): void => {
      draining = now;
    },
    tidy: (): void => repository.forget(clock.now()),
    /** Takes no more, and waits so long for hooks that run; those that run on are ended, and their messages come again. */
    stop: async (graceMs: number): Promise<void> => {
      draining = true;
      const all = Promise.allSettled(running.values());
      const timer = setTimeout(() => stopping.abort(stopped()), graceMs);
      await all;
      clearTimeout(timer);
      stopping.abort(stopped());
      await finishEnded().catch((err: unknown) =>
        log.warn({ err }, 'hooks ended and that cannot be journaled: the next daemon gives them their messages again'),
      );
    },
  };
};
export type Inbox = ReturnType<typeof inbox>;

const noHook = (channel: string): AegisError =>
  new AegisError(
    'channel.no_handler',
    `This node has no hook for the channel '${channel}'. Name one in its configuration ('hooks'), or another channel.`,
  );
const stopped = () => new AegisError('http.unavailable', 'The daemon stops. The message comes again.');
