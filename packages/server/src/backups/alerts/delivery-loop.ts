import type { Clock } from '../../platform/clock.ts';
import type { Log } from '../../platform/log.ts';
import type { AlertRow } from '../tables.ts';
import type { AlertsRepository } from './repository.ts';

/** Delivers alerts until their receivers take them, or for as long as is worth it: stored before, removed after, so that an alert may come
 *  twice (its `alert_id` tells) and is not lost by a restart. */

/** @throws Error whose message says, to a person, why it was not taken */
export type Deliver = (body: string, signal: AbortSignal) => Promise<void>;
export interface Receiver {
  /** As rows name it: no secret. */
  id: string;
  /** As the log names it. */
  shown: string;
  deliver: Deliver;
}

const AT_ONCE = 4;
const FIRST_PAUSE_MS = 10_000;
const MOST_PAUSE_MS = 3_600_000;
/** Without work: another server process may have added some. */
const LOOK_EVERY_MS = 60_000;

export const alertDelivery = (on: {
  repository: AlertsRepository;
  receivers: readonly Receiver[];
  timeoutMs: number;
  giveUpAfterMs: number;
  clock: Clock;
  log: Log;
}) => {
  const { repository, clock, log } = on;
  /** One that the settings name twice is told once. */
  const receivers = [...new Map(on.receivers.map((receiver) => [receiver.id, receiver])).values()];
  const targets = receivers.map(({ id }) => id);

  const deliver = async (receiver: Receiver, row: AlertRow, signal: AbortSignal): Promise<void> => {
    const begun = clock.now();
    if (!(await repository.claim(row, begun + 2 * on.timeoutMs + 10_000))) return;
    try {
      await receiver.deliver(row.body, signal);
      await repository.remove(row.id);
    } catch (error) {
      const why = whyOf(error, on.timeoutMs);
      const now = clock.now();
      if (signal.aborted) return repository.again(row.id, now, why);
      if (now - row.made_at >= on.giveUpAfterMs) {
        log.error({ receiver: receiver.shown, tries: row.tries + 1, why }, 'an alert was never taken, and is given up');
        return repository.remove(row.id);
      }
      log.warn({ receiver: receiver.shown, tries: row.tries + 1, why }, 'an alert was not taken; it is tried again');
      const pause = Math.min(MOST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(row.tries, 20));
      await repository.again(row.id, now + pause, why);
    }
  };
  /** Each receiver has its own: one that hangs holds up no other. */
  const lanes = receivers.map((receiver) => {
    let timer: NodeJS.Timeout | undefined;
    let working: Promise<void> | null = null;
    let wanted = false;
    const turn = async (signal: AbortSignal): Promise<void> => {
      while (!signal.aborted) {
        const due = await repository.due(receiver.id, clock.now(), AT_ONCE);
        if (due.length === 0) return;
        await Promise.all(due.map((row) => deliver(receiver, row, signal)));
      }
    };
    const later = async (signal: AbortSignal): Promise<void> => {
      if (signal.aborted) return;
      const next = await repository.nextAt(receiver.id).catch(() => null);
      if (signal.aborted) return;
      clearTimeout(timer);
      const inMs = next === null ? LOOK_EVERY_MS : Math.min(LOOK_EVERY_MS, Math.max(100, next - clock.now()));
      timer = setTimeout(() => void work(signal), inMs);
      timer.unref();
    };
    const work = (signal: AbortSignal): Promise<void> => {
      wanted = true;
      working ??= (async () => {
        while (wanted && !signal.aborted) {
          wanted = false;
          await turn(signal).catch((err: unknown) => log.warn({ err }, 'alerts were not delivered; it is tried again'));
        }
      })().finally(() => {
        working = null;
        void later(signal);
      });
      return working;
    };
    return { work, stop: () => clearTimeout(timer) };
  });
  let stopping: AbortSignal | null = null;

  return {
    targets,
    /** Some may be due. */
    wake: (): void => {
      if (stopping && !stopping.aborted) for (const { work } of lanes) void work(stopping);
    },
    start: (signal: AbortSignal): void => {
      if (lanes.length === 0) return;
      stopping = signal;
      repository
        .removeOthers(targets)
        .catch((err: unknown) => log.warn({ err }, 'alerts of former receivers are kept'));
      for (const { work, stop } of lanes) {
        signal.addEventListener('abort', stop, { once: true });
        void work(signal);
      }
    },
  };
};
export type AlertDelivery = ReturnType<typeof alertDelivery>;

const whyOf = (error: unknown, timeoutMs: number): string => {
  if (!(error instanceof Error)) return 'it failed';
  if (error.name === 'TimeoutError') return `there was no answer within ${timeoutMs / 1000} s`;
  const code = error.cause instanceof Error && 'code' in error.cause ? ` (${String(error.cause.code)})` : '';
  return `${error.message}${code}`.slice(0, 1000);
};
