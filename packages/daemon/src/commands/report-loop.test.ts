import type { PostedReport, ReportResult } from '@aegis/protocol/commands/carrier';
import { expect, test } from 'vitest';
import { systemClock } from '../platform/clock.ts';
import { backoff } from '../platform/http/backoff.ts';
import { silentLog } from '../platform/log.ts';
import { executionOf } from './execution.ts';
import { reportOfLoss } from './final-report.ts';
import { reportLoop } from './report-loop.ts';

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
