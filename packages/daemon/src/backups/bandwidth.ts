import type { Bandwidth } from '@aegis/protocol/backups/config';
import { type Clock, pause } from '../platform/clock.ts';

/** How fast a run may upload, all of its uploads together, by the time of day. A token bucket that holds at most a tenth of a second, so that
 *  a limit is a limit and no burst; whoever takes goes in turn. */

export interface Throttle {
  /** Resolves when so many bytes may go out. Rejects never; resolves at once when the signal aborts. */
  take(bytes: number, signal: AbortSignal): Promise<void>;
}

const BURST_MS = 100;
/** The longest wait before the time of day is looked at again. */
const LOOK_MS = 1000;
const DAYS = { Sun: 'sun', Mon: 'mon', Tue: 'tue', Wed: 'wed', Thu: 'thu', Fri: 'fri', Sat: 'sat' } as const;

/** Bytes a second at this moment; null: unlimited. A window that ends before it begins goes over midnight, and belongs to the day on which
 *  it began. */
export const rateAt = ({ upload, windows, timezone }: Bandwidth, nowMs: number): number | null => {
  if (windows.length === 0) return upload ?? null;
  const { day, before, minute } = localTime(timezone, nowMs);
  for (const { from, to, days, upload: rate } of windows) {
    const [begin, end] = [minutes(from), minutes(to)];
    const on = (one: (typeof DAYS)[keyof typeof DAYS]): boolean => days === undefined || days.includes(one);
    const within =
      begin < end
        ? on(day) && minute >= begin && minute < end
        : (on(day) && minute >= begin) || (on(before) && minute < end);
    if (within) return rate ?? null;
  }
  return upload ?? null;
};

export const throttle = (bandwidth: Bandwidth, clock: Clock): Throttle => {
  if (bandwidth.upload === undefined && bandwidth.windows.length === 0) return { take: async () => undefined };
  let tokens = 0;
  let filledAt = clock.monotonic();
  let turn: Promise<void> = Promise.resolve();

  const takeInTurn = async (bytes: number, signal: AbortSignal): Promise<void> => {
    // A debt may be made by one taker, and is paid before the next: so any count goes through whatever the bucket holds.
    for (;;) {
      const rate = rateAt(bandwidth, clock.now());
      if (rate === null || signal.aborted) return;
      const now = clock.monotonic();
      tokens = Math.min((rate * BURST_MS) / 1000, tokens + (rate * (now - filledAt)) / 1000);
      filledAt = now;
      if (tokens >= 0) {
        tokens -= bytes;
        return;
      }
      await pause(Math.min(LOOK_MS, Math.ceil((-tokens / rate) * 1000)), signal);
    }
  };
  return {
    take: (bytes, signal) => {
      const mine = turn.then(() => takeInTurn(bytes, signal));
      turn = mine;
      return mine;
    },
  };
};

const minutes = (time: string): number => Number(time.slice(0, 2)) * 60 + Number(time.slice(3));

const formats = new Map<string, Intl.DateTimeFormat>();
const localTime = (timeZone: string, nowMs: number) => {
  let format = formats.get(timeZone);
  if (!format) {
    format = new Intl.DateTimeFormat('en-US', {
      timeZone,
      weekday: 'short',
      hour: '2-digit',
      minute: '2-digit',
      hourCycle: 'h23',
    });
    formats.set(timeZone, format);
  }
  const parts = Object.fromEntries(format.formatToParts(nowMs).map(({ type, value }) => [type, value]));
  const names = Object.keys(DAYS) as (keyof typeof DAYS)[];
  const at = names.indexOf(parts.weekday as keyof typeof DAYS);
  return {
    day: DAYS[names[at] ?? 'Sun'],
    before: DAYS[names[(at + 6) % 7] ?? 'Sun'],
    minute: Number(parts.hour) * 60 + Number(parts.minute),
  };
};
