import type { PostedReport, ReportResult } from '@aegis/protocol/commands/carrier';
import { expect, test } from 'vitest';
import { systemClock } from '../platform/clock.ts';
import { backoff } from '../platform/http/backoff.ts';
import { silentLog } from '../platform/log.ts';
import { executionOf } from './execution.ts';
import { reportOfLoss } from './final-report.ts';
import { reportLoop } from './report-loop.ts';
import { requestSize } from './request-size.ts';

test('a loss of which the server holds more than this disk does is told with the count of the server', async () => {
  const named = { id: '01a1fb9c-d7a3-77f2-8f3e-ed8bb772e5df', commandId: '01a1fb9c-d7a3-77f1-aded-cbb579d717ab' };
  const rest = {
    seq: 1,
    attempt: 1,
    priority: 1,
    delivery: 'at-most-once',
    notBeforeMs: null,
    expiresAtMs: 1,
    begun: true,
  } as const;
  const report = reportOfLoss({ ...named, attempt: 1 }, 0, { stdout: 4096, stderr: 7 }, 'power cut', 0);
  const execution = executionOf(
    { ...named, ...rest, outputLimitBytes: 0, handedBoot: 'a', cancelAsked: false, report },
    { fresh: false },
  );
  const sent: PostedReport['output'][] = [];
  const holds = { stdout: 23_893, stderr: 0 };
  const settled = Promise.withResolvers<void>();
  const loop = reportLoop({
    // As the server does: fewer bytes than it holds are a contradiction.
    send: async ([posted]): Promise<ReportResult[]> => {
      sent.push(posted?.output);
      const bytes = posted?.output?.stdout.bytes ?? 0;
      const error = bytes < holds.stdout ? { code: 'commands.report_mismatch', message: '' } : undefined;
      return [{ execution_id: named.id, state: 'lost', next: holds, ...(error ? { error } : {}) }];
    },
    sign: () => ({ payloadType: '', payload: '', signatures: [] }),
    runningReport: () => null,
    remainder: () => [],
    onSettled: () => settled.resolve(),
    onIncomplete: () => undefined,
    size: requestSize(systemClock),
    backoff: backoff({ random: () => 0 }),
    clock: systemClock,
    log: silentLog(),
    signal: new AbortController().signal,
  });
  loop.final(execution);
  await settled.promise;
  const outputOf = (stdout: number) => ({
    stdout: { bytes: stdout, sha256: null },
    stderr: { bytes: 7, sha256: null },
  });
  expect(sent).toEqual([outputOf(4096), outputOf(23_893)]);
});

test('an execution whose files cannot be read does not keep another from being reported', async () => {
  const executions = ['01a1fb9c-d7a3-77f2-8f3e-ed8bb772e5d1', '01a1fb9c-d7a3-77f2-8f3e-ed8bb772e5d2'].map((id, seq) => {
    const row = { seq, id, commandId: id, attempt: 1, priority: 1, delivery: 'at-most-once' } as const;
    const times = { notBeforeMs: null, expiresAtMs: 1, handedBoot: 'a', begun: true, cancelAsked: false };
    const report = reportOfLoss(row, 0, null, 'gone', 0);
    return executionOf({ ...row, ...times, outputLimitBytes: 0, report }, { fresh: false });
  });
  const settled = Promise.withResolvers<string>();
  const loop = reportLoop({
    send: async (posted) =>
      posted.map(({ execution_id = '', state }) => ({ execution_id, state, next: { stdout: 0, stderr: 0 } })),
    sign: () => ({ payloadType: '', payload: '', signatures: [] }),
    runningReport: () => null,
    remainder: ({ id }) => {
      if (id === executions[0]?.id) throw new Error('EIO: i/o error, read');
      return [];
    },
    onSettled: ({ id }) => settled.resolve(id),
    onIncomplete: () => undefined,
    size: requestSize(systemClock),
    backoff: backoff({ random: () => 0 }),
    clock: systemClock,
    log: silentLog(),
    signal: new AbortController().signal,
  });
  for (const execution of executions) loop.final(execution);
  expect(await settled.promise).toBe(executions[1]?.id);
});
