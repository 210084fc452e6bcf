import type { ExecutionStatus } from '@aegis/native/execution-folder';
import type { Report } from '@aegis/protocol/commands/carrier';
import { isoTime } from '../platform/clock.ts';
import { signalName } from '../platform/process.ts';

/** The last word on an execution, in each way that it can end. Pure. */

type Named = { id: string; commandId: string; attempt: number };

const named = ({ id, commandId, attempt }: Named) => ({ command_id: commandId, execution_id: id, attempt });
const MAX_MESSAGE = 2048;

/** It ran, and this is what its supervisor left on disk. */
export const reportOfStatus = (execution: Named, status: ExecutionStatus): Report => {
  const { outcome, exitCode, signal } = status;
  const state = status.timedOut
    ? 'timed_out'
    : status.cancelled
      ? 'cancelled'
      : outcome === 'exited' && exitCode === 0
        ? 'succeeded'
        : 'failed';
  return {
    ...named(execution),
    state,
    exit_code: exitCode,
    signal: signal === null ? null : signalName(signal),
    started_at: isoTime(status.startedAtMs),
    finished_at: isoTime(status.finishedAtMs),
    output: { stdout: status.stdout, stderr: status.stderr },
    usage: {
      user_us: status.usage.userUs,
      system_us: status.usage.systemUs,
      max_rss_kb: status.usage.maxRssKb,
      duration_ms: status.durationMs,
    },
    tree_empty: status.treeEmpty,
    error:
      outcome === 'spawn_failed'
        ? {
            code: 'commands.start_failed',
            message: (status.error ?? 'The command could not be started.').slice(0, MAX_MESSAGE),
          }
        : null,
  };
};

/** It never ran here. */
export const reportOfNoStart = (
  execution: Named,
  state: 'cancelled' | 'expired' | 'refused' | 'failed',
  error: { code: string; message: string } | null,
  nowMs: number,
): Report => ({
  ...named(execution),
  state,
  exit_code: null,
  signal: null,
  started_at: null,
  finished_at: isoTime(nowMs),
  error: error && { code: error.code, message: error.message.slice(0, MAX_MESSAGE) },
});

/** It was started, and nobody can know how it ended. `bytes`: what is known of its output. */
export const reportOfLoss = (
  execution: Named,
  startedAtMs: number | null,
  bytes: { stdout: number; stderr: number } | null,
  why: string,
  nowMs: number,
): Report => ({
  ...named(execution),
  state: 'lost',
  exit_code: null,
  signal: null,
  started_at: startedAtMs === null ? null : isoTime(startedAtMs),
  finished_at: isoTime(nowMs),
  ...(bytes
    ? { output: { stdout: { bytes: bytes.stdout, sha256: null }, stderr: { bytes: bytes.stderr, sha256: null } } }
    : {}),
  error: { code: 'commands.lost', message: why },
});
