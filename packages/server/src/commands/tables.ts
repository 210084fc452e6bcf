import type { CommandState, ExecutionState } from '@aegis/protocol/commands/state';
import type { Delivery } from '@aegis/protocol/commands/submission';

/** Rows of the commands domain. Times are milliseconds since 1970, booleans 0 and 1, ids UUIDv7 text. */
export interface CommandsTables {
  commands: {
    id: string;
    correlation_id: string;
    command_type: string;
    /** JSON, as validated. */
    payload: string;
    /** Characters of payload and targets together: what bounds a page and an offer. */
    text_chars: number;
    /** JSON array: the targets as the submitter named them. */
    targets: string;
    actor_kind: string;
    actor_id: string;
    actor_name: string;
    state: CommandState;
    /** JSON object: nodes by the state of their last attempt. Kept by differences, so that ten thousand nodes cost a report nothing. */
    result: string;
    priority: number;
    delivery: Delivery;
    max_retries: number;
    retry_backoff_ms: number;
    retry_count: number;
    output_limit_bytes: number;
    /** Unique per actor; the answer given then is given again. */
    idempotency_key: string | null;
    request_sha256: string | null;
    answer: string | null;
    /** An operator's own directive, as it is offered. */
    operator_directive: string | null;
    /** JSON array: operators' cancels of it, the newest last (`OperatorCancel`). */
    operator_cancels: string | null;
    created_at: number;
    scheduled_at: number | null;
    expires_at: number;
    /** When the last possible process of it has ended by its own limits; null where it has none. */
    deadline_at: number | null;
    executed_at: number | null;
    completed_at: number | null;
    error_message: string | null;
    /** When expiry-loop.ts looks at it next: to expire it, to presume it lost, or to delete it. */
    check_at: number;
  };
  commands_executions: {
    id: string;
    command_id: string;
    node_uid: string;
    node_name: string;
    attempt: number;
    /** 1 for the newest attempt on its node. */
    newest: number;
    priority: number;
    state: ExecutionState;
    presumed: number;
    /** When it may be offered (again); beyond `expires_at` never. */
    due_at: number;
    not_before: number | null;
    expires_at: number;
    /** The first offer, committed before the answer that carried it. */
    offered_at: number | null;
    /** The cancel directive: its id, when it was asked for, first offered, and is to be offered (again); null due = not now. */
    cancel_id: string | null;
    cancel_at: number | null;
    cancel_offered_at: number | null;
    cancel_due_at: number | null;
    created_at: number;
    delivered_at: number | null;
    started_at: number | null;
    finished_at: number | null;
    /** The last news of it. */
    heard_at: number;
    exit_code: number | null;
    signal: string | null;
    error_code: string | null;
    error_message: string | null;
    /** JSON. */
    usage: string | null;
    tree_empty: number | null;
    report_signed: number;
    output_verified: number | null;
    stdout_next: number;
    stdout_missing: number;
    stdout_bytes: number | null;
    stdout_sha256: string | null;
    stderr_next: number;
    stderr_missing: number;
    stderr_bytes: number | null;
    stderr_sha256: string | null;
  };
  /** Output as it came, contiguous per (execution, stream): either bytes or a gap. */
  commands_output: {
    execution_id: string;
    /** 1 stdout, 2 stderr. */
    stream: number;
    start: number;
    length: number;
    stored_at: number;
    gap_reason: string | null;
    bytes: Buffer | null;
  };
  /** How many executions are queued for a node: counting them at each submission would cost more than the submission. */
  commands_queues: {
    node_uid: string;
    queued: number;
  };
}

export type CommandRow = CommandsTables['commands'];
export type ExecutionRow = CommandsTables['commands_executions'];
export type OutputRow = CommandsTables['commands_output'];

/** Columns that only a report writes and people read: no transition looks at them, so none loads them. */
type Told =
  | 'priority'
  | 'due_at'
  | 'not_before'
  | 'created_at'
  | 'exit_code'
  | 'signal'
  | 'error_code'
  | 'error_message'
  | 'usage'
  | 'tree_empty'
  | 'report_signed'
  | 'output_verified'
  | 'stdout_sha256'
  | 'stderr_sha256';
/** An execution as transitions read it; what was not loaded and is not set stays as it is stored. */
export type LiveExecution = Omit<ExecutionRow, Told> & Partial<Pick<ExecutionRow, Told>>;
/** A command as its executions' transitions read it. */
export type LiveCommand = Pick<
  CommandRow,
  | 'id'
  | 'state'
  | 'result'
  | 'priority'
  | 'delivery'
  | 'max_retries'
  | 'retry_backoff_ms'
  | 'retry_count'
  | 'output_limit_bytes'
  | 'scheduled_at'
  | 'expires_at'
  | 'executed_at'
  | 'completed_at'
  | 'error_message'
  | 'check_at'
>;
