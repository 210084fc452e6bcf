import { expect, test } from 'vitest';
import { signalName } from './process.ts';

test('signals have their usual names, real-time signals their numbers', () => {
  expect([6, 9, 15, 29, 34, 64].map(signalName)).toEqual(['SIGABRT', 'SIGKILL', 'SIGTERM', 'SIGIO', 'SIG34', 'SIG64']);
});
