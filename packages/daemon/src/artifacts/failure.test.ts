import { AegisError } from '@aegis/protocol/errors';
import { expect, test } from 'vitest';
import { Unreachable } from '../platform/http/client.ts';
import { DeployError } from './deployment.ts';
import { failureOf, restMs } from './failure.ts';

test('each kind of failure is told by code and sentence; what is a mistake of ours says where to look', () => {
  const told = [
    new Unreachable('artifactBinary: answered 503', 5000),
    new DeployError('artifacts.load_failed', 'The verifier rejects it.', { verifierLog: 'R1' }),
    new AegisError('artifacts.unsigned', 'It is not signed.'),
    new TypeError('x is not a function'),
  ].map((error) => {
    const { code, message, verifierLog } = failureOf(error);
    expect(message).toMatch(/[.)]$/);
    return [code, verifierLog];
  });
  expect(told).toEqual([
    ['http.unavailable', undefined],
    ['artifacts.load_failed', 'R1'],
    ['artifacts.unsigned', undefined],
    ['http.internal', undefined],
  ]);
});

test('what may pass is tried again soon, then less often; what stays, every ten minutes; a server that asks for time gets it', () => {
  const half = () => 0.5;
  const busy = failureOf(new DeployError('artifacts.hook_busy', 'taken'));
  expect([0, 1, 2, 5, 6, 60].map((failures) => restMs(busy, failures, half))).toEqual([
    750, 1500, 3000, 24_000, 45_000, 45_000,
  ]);
  expect(restMs(failureOf(new DeployError('artifacts.load_failed', 'no')), 0, half)).toBe(600_000);
  expect(restMs(failureOf(new Unreachable('away', 120_000)), 0, half)).toBe(120_000);
});
