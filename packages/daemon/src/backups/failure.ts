import { AegisError, type ErrorCode } from '@aegis/protocol/errors';

/** Why a run did not complete, and whether another attempt may. */

/** What another attempt cannot change: somebody said no, or time or room that was given is used up. */
const FINAL: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'backups.cancelled',
  'backups.timeout',
  'backups.limit',
  'backups.hook_failed',
  'backups.not_assigned',
  'backups.unknown_config',
  'backups.unknown_run',
  'backups.run_ended',
  'backups.run_conflict',
  'backups.sign_refused',
  'backups.bad_config',
  'backups.bad_recipient',
  'backups.unsupported',
  'access.forbidden',
]);

export interface RunFailure {
  code: ErrorCode;
  message: string;
  /** Another attempt may succeed. */
  passing: boolean;
}

const MAX_MESSAGE = 2000;

export const failureOf = (error: unknown): RunFailure => {
  if (error instanceof AegisError)
    return { code: error.code, message: error.message.slice(0, MAX_MESSAGE), passing: !FINAL.has(error.code) };
  return {
    code: 'http.internal',
    message: "Something went wrong inside the daemon; its log has the cause ('journalctl -u aegis-daemon').",
    passing: true,
  };
};

/** The reason with which a run's signal is aborted. */
export const cancelled = (): AegisError => new AegisError('backups.cancelled', 'The backup was cancelled.');
export const outOfTime = (sec: number): AegisError =>
  new AegisError(
    'backups.timeout',
    `The backup was not done within limits.run_sec (${sec} s): give it more time, or less to do.`,
  );
/** The daemon stops: the run is neither over nor forgotten. */
export class Stopping extends Error {
  override readonly name = 'Stopping';
}
