import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Schedule, Work } from '@aegis/protocol/backups/config';
import type { PresentConfig } from '@aegis/protocol/backups/directive';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import { afterEach, beforeEach, expect, test } from 'vitest';
import * as z from 'zod/mini';
import { waitFor } from '../../test/wait-for.ts';
import { migrations } from '../migrations.ts';
import { isoTime } from '../platform/clock.ts';
import { type Journal, openJournal } from '../platform/journal/journal.ts';
import { silentLog } from '../platform/log.ts';
import type { Held } from './desired.ts';
import { backupsRepository, type DesiredRow } from './repository.ts';
import { scheduleLoop } from './schedule-loop.ts';

/** The loop over a real journal, with a wall clock that the test sets: what was started is kept, and looked at again after a restart. */

const CONFIG = '01a1fd03-ab32-7149-9a1f-9165a79627d9';
const ms = (time: string): number => Date.parse(time);

let folder: string;
let journal: Journal;
const open = (): void => {
  journal = openJournal({ path: join(folder, 'journal.db'), migrations, faults: noFaultPoints, maxBytes: 2 ** 24 });
};
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'aegis-schedule-'));
  open();
});
afterEach(() => {
  journal.close();
  rmSync(folder, { recursive: true });
});

const rowOf = (untilMs: number, body: PresentConfig): DesiredRow => ({
  configId: CONFIG,
  generation: 1,
  present: true,
  body: JSON.stringify(body),
  envelope: '{}',
  issuedAtMs: untilMs,
  acceptedAtMs: untilMs,
  scheduledUntilMs: untilMs,
});

const start = (
  schedule: z.input<typeof Schedule>,
  { now, paused = false, since }: { now: string; paused?: boolean; since?: string },
) => {
  const repository = backupsRepository(journal);
  const work = z.parse(Work, { sources: ['/etc'], destination: { kind: 'file', path: '/backup' }, schedule });
  const body: PresentConfig = { state: 'present', config_id: CONFIG, name: 'etc', paused, work };
  if (since !== undefined) repository.putDesired(rowOf(ms(since), body));
  const [row] = repository.desired();
  const held = new Map<string, Held>(row ? [[CONFIG, { row, body }]] : []);
  const clock = { nowMs: ms(now) };
  const runs: [trigger: string, scheduled: string][] = [];
  let busy = false;
  const stopping = new AbortController();
  const loop = scheduleLoop({
    nodeUid: 'node 1',
    desired: {
      held,
      scheduledUntil: (_: string, untilMs: number) => {
        if (row) row.scheduledUntilMs = untilMs;
      },
    } as unknown as Parameters<typeof scheduleLoop>[0]['desired'],
    runner: {
      busyWith: () => (busy ? ({ id: 'busy' } as never) : null),
      add: async (_held, { trigger, scheduledMs, also }) => {
        await journal.group('backup-queued', () => also?.());
        runs.push([trigger, isoTime(scheduledMs ?? 0)]);
        return null as never;
      },
    },
    repository,
    journal,
    onChange: () => undefined,
    clock: { now: () => clock.nowMs, monotonic: () => performance.now() },
    log: silentLog(),
    signal: stopping.signal,
    lookMs: 5,
  });
  loop.kick();
  return {
    runs,
    clock,
    setBusy: (to: boolean) => {
      busy = to;
    },
    next: () => {
      const at = loop.nextRunMs(CONFIG);
      return at === null ? null : isoTime(at);
    },
    until: () => isoTime(repository.desired()[0]?.scheduledUntilMs ?? 0),
    stop: async () => {
      stopping.abort();
      await loop.stopped();
    },
  };
};

test('each time runs once, whatever the clock does and however often the daemon starts', async () => {
  const nightly = { cron: '0 2 * * *' };
  const first = start(nightly, { now: '2026-05-01T01:00:00Z', since: '2026-05-01T00:00:00Z' });
  await waitFor('the next', () => first.next() === '2026-05-01T02:00:00.000Z');
  first.clock.nowMs = ms('2026-05-01T02:00:01Z');
  await waitFor('the run', () => first.runs.length === 1);
  first.clock.nowMs = ms('2026-05-01T00:30:00Z'); // set back
  await waitFor('the next', () => first.next() === '2026-05-02T02:00:00.000Z');
  first.clock.nowMs = ms('2026-05-01T02:00:30Z');
  await first.stop();
  expect(first.runs).toEqual([['schedule', '2026-05-01T02:00:00.000Z']]);
  expect(first.until()).toBe('2026-05-01T02:00:00.000Z');
  journal.close();
  open();

  const second = start(nightly, { now: '2026-05-01T02:01:00Z' });
  await waitFor('the next', () => second.next() === '2026-05-02T02:00:00.000Z');
  second.clock.nowMs = ms('2026-05-09T12:00:00Z'); // a week later
  await waitFor('what was missed', () => second.runs.length === 1);
  await waitFor('the next', () => second.next() === '2026-05-10T02:00:00.000Z');
  await second.stop();
  expect(second.runs).toEqual([['missed', '2026-05-09T02:00:00.000Z']]);
});

test('what is missed is left out where nothing is to be caught up, and so is a time whose run before still goes on', async () => {
  const loop = start(
    { cron: '0 * * * *', catch_up: false },
    { now: '2026-05-01T09:30:00Z', since: '2026-05-01T00:00:00Z' },
  );
  await waitFor('the next', () => loop.next() === '2026-05-01T10:00:00.000Z');
  expect(loop.until()).toBe('2026-05-01T09:00:00.000Z');
  loop.setBusy(true);
  loop.clock.nowMs = ms('2026-05-01T10:00:10Z');
  await waitFor('the next but one', () => loop.next() === '2026-05-01T11:00:00.000Z');
  loop.setBusy(false);
  loop.clock.nowMs = ms('2026-05-01T11:00:10Z');
  await waitFor('the run', () => loop.runs.length === 1);
  await loop.stop();
  expect(loop.runs).toEqual([['schedule', '2026-05-01T11:00:00.000Z']]);
});

test('a paused one has no next run', async () => {
  const loop = start(
    { cron: '0 * * * *' },
    { now: '2026-05-01T09:30:00Z', since: '2026-05-01T00:00:00Z', paused: true },
  );
  loop.clock.nowMs = ms('2026-05-01T12:30:00Z');
  await waitFor('a look', () => loop.next() === null);
  await loop.stop();
  expect(loop.runs).toEqual([]);
});

test('a clock that was years ahead and is set right does not hold a schedule up', async () => {
  const loop = start({ cron: '0 2 * * *' }, { now: '2038-01-19T02:00:01Z', since: '2038-01-18T12:00:00Z' });
  await waitFor('the run', () => loop.runs.length === 1);
  loop.clock.nowMs = ms('2026-05-01T12:00:00Z');
  await waitFor('the next', () => loop.next() === '2026-05-02T02:00:00.000Z');
  await loop.stop();
});
