import { Work } from '@aegis/protocol/backups/config';
import { expect, test } from 'vitest';
import * as z from 'zod/mini';
import type { Held } from './desired.ts';
import { type RunnerOptions, runner } from './runner.ts';

const CONFIG = '01a1fd03-ab32-7149-9a1f-9165a79627da';
const work = z.parse(Work, { sources: ['/etc'], destination: { kind: 'file', path: '/nowhere' } });
const held = {
  row: { configId: CONFIG, generation: 1 },
  body: { state: 'present', config_id: CONFIG, name: 'etc', paused: false, work },
} as unknown as Held;

/** A runner whose runs wait for a server that never answers. */
const stage = () => {
  let ids = 0;
  const stop = new AbortController();
  const options = {
    repository: { addRun: () => undefined, putRun: () => undefined, removeParts: () => undefined },
    journal: { group: async (_: string, act: () => void) => act(), lazily: async () => undefined },
    clock: { now: () => Date.now(), monotonic: () => performance.now() },
    random: Math.random,
    log: { debug: () => undefined, error: () => undefined, warn: () => undefined },
    node: { uid: 'node', name: 'web-1' },
    client: { call: () => new Promise(() => undefined) },
    limits: { retryMs: 1 },
    heldOf: () => held,
    rows: [],
    maxConcurrent: 2,
    newId: () => `run-${++ids}`,
    onEnd: () => undefined,
    signal: stop.signal,
  } as unknown as RunnerOptions;
  return runner(options);
};
const request = { trigger: 'request', scheduledMs: null } as const;

test('of two runs of a configuration that are asked for in one moment one is made, and the other refused', async () => {
  const runs = stage();
  const asked = await Promise.allSettled([runs.add(held, request), runs.add(held, request)]);
  expect(asked.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
  expect(asked[1]).toMatchObject({ reason: { code: 'backups.busy' } });
  expect(runs.busyWith(CONFIG)?.id).toBe('run-1');
});

test('a run whose end the server did not take waits for the one that began meanwhile', async () => {
  const runs = stage();
  const { row } = await runs.add(held, request);
  runs.again({ ...row, id: 'before' });
  expect([[...runs.active.values()].map((run) => run.row.id), runs.waiting()]).toEqual([['run-1'], 1]);
});
