import type { Session } from '@aegis/protocol/channel/session';
import type { AegisError } from '@aegis/protocol/errors';
import { expect, onTestFinished, test, vi } from 'vitest';
import { silentLog } from '../platform/log.ts';
import type { Link } from './link.ts';
import { linkLoop } from './link-loop.ts';

/** Links that nobody but the node ends: each at a server process that knows nothing of the others. */
const stage = (lastsMs: number) => {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  const clock = { now: () => Date.now(), monotonic: () => performance.now() };
  const stopping = new AbortController();
  const up = new Set<number>();
  const told: (number | null)[] = [];
  const sessions = new Map<Session | null, number>();
  const loop = linkLoop({
    open: async (): Promise<Link> => {
      const nth = sessions.size;
      const { promise: ended, resolve } = Promise.withResolvers<AegisError>();
      const session = {} as Session;
      sessions.set(session, nth);
      up.add(nth);
      const end = (reason: AegisError): void => {
        up.delete(nth);
        resolve(reason);
      };
      return { session, renewAtMs: clock.monotonic() + lastsMs, skewMs: 0, ended, end };
    },
    refreshTrust: async () => false,
    changed: (session) => told.push(sessions.get(session) ?? null),
    clock,
    random: () => 0,
    log: silentLog(),
    signal: stopping.signal,
  });
  return { loop, stopping, up, told };
};

test('a connection that another took the place of is ended by the node too, a while later', async () => {
  const { loop, stopping, up, told } = stage(60_000);
  await vi.advanceTimersByTimeAsync(59_000);
  expect([...up]).toEqual([0]);
  await vi.advanceTimersByTimeAsync(1100);
  expect([...up]).toEqual([0, 1]); // what it is asked for on the older one may have its answer
  await vi.advanceTimersByTimeAsync(10_000);
  expect([...up]).toEqual([1]);
  await vi.advanceTimersByTimeAsync(50_000);
  expect([...up]).toEqual([1, 2]);
  expect([told, loop.status()]).toEqual([[0, 1, 2], { up: true, lastError: null }]);
  stopping.abort();
  await loop.done;
  expect([...up]).toEqual([]);
});
