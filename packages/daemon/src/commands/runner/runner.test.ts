import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { systemClock } from '../../platform/clock.ts';
import type { Journal } from '../../platform/journal/journal.ts';
import { silentLog } from '../../platform/log.ts';
import { type Execution, executionOf } from '../execution.ts';
import type { SpecSettings } from '../process-spec.ts';
import type { CommandsRepository } from '../repository.ts';
import { commandsRunner } from './runner.ts';

let root: string;
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  root = mkdtempSync(join(tmpdir(), 'aegis-runner-'));
});
afterEach(() => {
  vi.useRealTimers();
  rmSync(root, { recursive: true });
});

const id = '01a1fbb1-155f-7166-a003-85c1a1980ddd';

test('an execution that expired while its folder could not be looked at ends once it can', async () => {
  mkdirSync(join(root, id));
  symlinkSync('elsewhere', join(root, id, 'lock')); // whose lock nobody can ask about
  const ended: Execution[] = [];
  const runner = commandsRunner({
    root,
    repository: { setReport: () => undefined } as unknown as CommandsRepository,
    journal: { group: async <T>(_: string, change: () => T) => change() } as Journal,
    settings: {} as SpecSettings,
    bootId: 'b',
    maxConcurrent: 1,
    mayStart: () => true,
    takeSpare: () => undefined,
    askLauncher: () => undefined,
    endLeftovers: () => undefined,
    onRunning: () => undefined,
    onOutput: () => undefined,
    onEnd: (execution) => ended.push(execution),
    clock: systemClock,
    faults: noFaultPoints,
    log: silentLog(),
  });
  const row = { seq: 1, id, commandId: id, attempt: 1, priority: 1, delivery: 'at-most-once', report: null } as const;
  const times = { notBeforeMs: null, expiresAtMs: 1, handedBoot: 'b', begun: false, cancelAsked: false };
  runner.add([executionOf({ ...row, ...times, outputLimitBytes: 0 }, { fresh: true })]);
  await vi.advanceTimersByTimeAsync(5000);
  expect(ended).toEqual([]);
  rmSync(join(root, id, 'lock'));
  await vi.advanceTimersByTimeAsync(5000);
  expect(ended.map(({ report }) => report?.state)).toEqual(['expired']);
  runner.stop();
});
