import { AegisError, type ErrorCode } from '@aegis/protocol/errors';
import { Unreachable } from '../platform/http/client.ts';
import { DeployError } from './deployment.ts';

/** Why an artifact is not as wished, as it is told, and when trying again may help. */
export interface Failure {
  code: ErrorCode;
  message: string;
  verifierLog: string | undefined;
  /** At least so long before the next try, as the server asked. */
  retryAfterMs: number;
  cause: unknown;
}

export const failureOf = (error: unknown): Failure => {
  const base = { verifierLog: undefined, retryAfterMs: 0, cause: error };
  if (error instanceof Unreachable)
    return {
      ...base,
      code: 'http.unavailable',
      message: `The bundle cannot be fetched (${error.message}): it is tried again. See that the server is there and that proxies let whole answers pass.`,
      retryAfterMs: error.retryAfterMs,
    };
  if (error instanceof DeployError)
    return { ...base, code: error.code, message: error.message, verifierLog: error.verifierLog };
  if (error instanceof AegisError) return { ...base, code: error.code, message: error.message };
  return {
    ...base,
    code: 'http.internal',
    message: "Something went wrong inside the daemon; its log has the cause ('journalctl -u aegis-daemon').",
  };
};

/** What may be otherwise in a moment. All else stays as it is until somebody changes it. */
const PASSING: ReadonlySet<ErrorCode> = new Set([
  'http.unavailable',
  'http.rate_limited',
  'http.internal',
  'artifacts.attach_failed',
  'artifacts.hook_busy',
  'artifacts.storage_full',
  'artifacts.not_here',
  'journal.full',
  'journal.failed',
]);
const FIRST_MS = 1000;
const MAX_MS = 60_000;
const LASTING_MS = 10 * 60_000;

/** How long to rest after the `failures + 1`th failure in a row. */
export const restMs = ({ code, retryAfterMs }: Failure, failures: number, random: () => number): number => {
  if (!PASSING.has(code)) return LASTING_MS;
  const bound = Math.min(MAX_MS, FIRST_MS * 2 ** Math.min(failures, 10));
  return Math.max(bound / 2 + (random() * bound) / 2, retryAfterMs);
};
