import { constants } from 'node:os';
import type { FinalState } from '@aegis/protocol/commands/state';
import type { Execution } from '@aegis/protocol/commands/submission';

/** The exit status of `submit`, as the contract has it: for one node the remote code, 128+n for signal n, 124 timed out;
 *  for several 0 or 1; 251 expired, 252 refused, 253 lost or unknown, 254 inside, 130 interrupted. */

export const EXIT = {
  timedOut: 124,
  interrupted: 130,
  notReached: 251,
  refused: 252,
  unknown: 253,
  internal: 254,
} as const;

const FINAL: Readonly<Record<FinalState, true>> = {
  succeeded: true,
  failed: true,
  timed_out: true,
  cancelled: true,
  lost: true,
  refused: true,
  expired: true,
};
export const hasEnded = (execution: Pick<Execution, 'state'>): boolean => Object.hasOwn(FINAL, execution.state);

export const signalNumber = (signal: string): number | null => {
  const known = (constants.signals as Readonly<Record<string, number>>)[
    signal.startsWith('SIG') ? signal : `SIG${signal}`
  ];
  const number = known ?? Number.parseInt(signal.replace(/^SIG/, ''), 10); // SIG34: real-time signals have no names
  return Number.isInteger(number) && number > 0 && number < 128 ? number : null;
};

type Ended = Pick<Execution, 'state' | 'exit_code' | 'signal'>;

const ownSign = ({ exit_code, signal }: Ended): number | null => {
  if (exit_code !== null) return exit_code & 0xff;
  const number = signal === null ? null : signalNumber(signal);
  return number === null ? null : 128 + number;
};

const ofOne = (execution: Ended): number => {
  switch (execution.state) {
    case 'succeeded':
      return ownSign(execution) ?? 0;
    case 'failed':
      return ownSign(execution) || EXIT.internal;
    case 'timed_out':
      return EXIT.timedOut;
    case 'cancelled':
      return ownSign(execution) || EXIT.interrupted;
    case 'expired':
      return EXIT.notReached;
    case 'refused':
      return EXIT.refused;
    default:
      return EXIT.unknown;
  }
};

/** @param executions each node's last attempt */
export const exitStatus = (executions: readonly Ended[], several: boolean): number => {
  const [only] = executions;
  if (!only) return EXIT.unknown;
  if (!several) return ofOne(only);
  if (executions.every(({ state }) => state === 'succeeded')) return 0;
  // When nothing ran anywhere, the reason is ours and worth telling; a mixture is simply a failure.
  for (const state of ['expired', 'refused', 'lost'] as const)
    if (executions.every((execution) => execution.state === state)) return ofOne(only);
  return 1;
};
