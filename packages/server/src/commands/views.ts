import type { Command, Execution } from '@aegis/protocol/commands/submission';
import { isoTime, isoTimeOrNull } from '../platform/clock.ts';
import { priorityNamed } from './priorities.ts';
import type { CommandRow, ExecutionRow } from './tables.ts';

/** Rows as the outside sees them. */

export type ShownCommand = Omit<CommandRow, 'answer' | 'request_sha256' | 'operator_directive' | 'operator_cancels'>;

export const commandView = (row: ShownCommand): Command => {
  const payload: unknown = JSON.parse(row.payload);
  return {
    command_id: row.id,
    correlation_id: row.correlation_id,
    command_type: row.command_type,
    verb: row.command_type,
    payload,
    args: payload,
    agent_targets: JSON.parse(row.targets) as string[],
    actor: { kind: row.actor_kind, id: row.actor_id, name: row.actor_name },
    state: row.state,
    status: row.state,
    priority: priorityNamed(row.priority),
    delivery: row.delivery,
    max_retries: row.max_retries,
    retry_count: row.retry_count,
    output_limit_bytes: row.output_limit_bytes,
    idempotency_key: row.idempotency_key,
    created_at: isoTime(row.created_at),
    scheduled_at: isoTimeOrNull(row.scheduled_at),
    expires_at: isoTime(row.expires_at),
    executed_at: isoTimeOrNull(row.executed_at),
    completed_at: isoTimeOrNull(row.completed_at),
    error_message: row.error_message,
    result: JSON.parse(row.result) as Record<string, number>,
  };
};

export const executionView = (row: ExecutionRow): Execution => ({
  execution_id: row.id,
  command_id: row.command_id,
  node_uid: row.node_uid,
  node: row.node_name,
  attempt: row.attempt,
  state: row.state,
  presumed: row.presumed === 1,
  exit_code: row.exit_code,
  signal: row.signal,
  error:
    row.error_code === null && row.error_message === null
      ? null
      : { code: row.error_code ?? '', message: row.error_message ?? '' },
  not_before: isoTimeOrNull(row.not_before),
  expires_at: isoTime(row.expires_at),
  created_at: isoTime(row.created_at),
  delivered_at: isoTimeOrNull(row.delivered_at),
  started_at: isoTimeOrNull(row.started_at),
  finished_at: isoTimeOrNull(row.finished_at),
  output: {
    stdout: {
      bytes: row.stdout_bytes,
      sha256: row.stdout_sha256,
      next: row.stdout_next,
      missing: row.stdout_missing,
    },
    stderr: {
      bytes: row.stderr_bytes,
      sha256: row.stderr_sha256,
      next: row.stderr_next,
      missing: row.stderr_missing,
    },
  },
  output_verified: row.output_verified === null ? null : row.output_verified === 1,
  report_signed: row.report_signed === 1,
  usage: row.usage === null ? null : (JSON.parse(row.usage) as unknown),
  tree_empty: row.tree_empty === null ? null : row.tree_empty === 1,
});
