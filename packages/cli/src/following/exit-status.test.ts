import { expect, test } from 'vitest';
import { exitStatus } from './exit-status.ts';

test('128+n for every signal, also for those without a name', () => {
  const statusOf = (signal: string) => exitStatus([{ state: 'failed', exit_code: null, signal }], false);
  expect(['SIGKILL', 'TERM', 'SIG34', 'SIG64', '9', 'SIGNONE'].map(statusOf)).toEqual([137, 143, 162, 192, 137, 254]);
});
