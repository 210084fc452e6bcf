import * as z from 'zod/mini';
import { Envelope } from '../access/dsse.ts';
import { CommandState, ExecutionState } from './state.ts';

/** What an operator submits, and what it becomes. */

export const Priority = z.enum(['critical', 'high', 'normal', 'low']);
export type Priority = z.infer<typeof Priority>;
/** Larger goes first. */
export const priorityRank = (priority: Priority): number => ({ critical: 3, high: 2, normal: 1, low: 0 })[priority];

export const Delivery = z.enum(['at-most-once', 'at-least-once']);
export type Delivery = z.infer<typeof Delivery>;

export const DEFAULTS = {
  ttlSec: 3600,
  timeoutSec: 3600,
  graceSec: 10,
  outputLimitBytes: 64 * 1024 * 1024,
  retryBackoffSec: 5,
} as const;
export const MAX_TARGETS = 10_000;
const MAX_TTL_SEC = 7 * 24 * 3600; // the longest that a node remembers a directive

const Target = z.string().check(z.minLength(1), z.maxLength(1024));
const Targets = z.union([Target, z.array(Target).check(z.minLength(1), z.maxLength(MAX_TARGETS))]);

const options = {
  priority: z._default(Priority, 'normal'),
  max_retries: z._default(z.int().check(z.minimum(0), z.maximum(20)), 0),
  /** First pause before a retry; doubles each time, at most 1 h, with up to 20 % jitter. */
  retry_backoff_sec: z._default(z.number().check(z.minimum(0), z.maximum(3600)), DEFAULTS.retryBackoffSec),
  delivery: z._default(Delivery, 'at-most-once'),
  scheduled_at: z.optional(z.iso.datetime()),
  ttl_sec: z._default(z.int().check(z.minimum(1), z.maximum(MAX_TTL_SEC)), DEFAULTS.ttlSec),
  idempotency_key: z.optional(z.string().check(z.minLength(1), z.maxLength(255))),
  output_limit_bytes: z._default(z.int().check(z.minimum(0)), DEFAULTS.outputLimitBytes),
  correlation_id: z.optional(z.string().check(z.minLength(1), z.maxLength(255))),
  dry_run: z._default(z.boolean(), false),
};

const names = {
  command_type: z.optional(z.string().check(z.maxLength(64))),
  verb: z.optional(z.string().check(z.maxLength(64))),
  payload: z.optional(z.unknown()),
  args: z.optional(z.unknown()),
  targets: z.optional(Targets),
  agent_targets: z.optional(Targets),
};

/** Our own door refuses fields that it does not know; the seed's ignores them. */
export const Submission = z.strictObject({
  ...names,
  ...options,
  /** The same as an operator signed it (`commands/signed.ts`): its id becomes the command's. */
  directive: z.optional(Envelope),
});
export const SeedSubmission = z.object({ ...names, ...options });
export type Submission = z.infer<typeof Submission>;

export const SubmitAnswer = z.object({
  command_id: z.nullable(z.uuid()), // null for a dry run
  targets: z.array(
    z.object({
      uid: z.uuid(),
      name: z.string(),
      status: z.string(),
      execution_id: z.nullable(z.uuid()),
      matched_by: z.string(),
    }),
  ),
  state: CommandState,
  expires_at: z.string(),
});
export type SubmitAnswer = z.infer<typeof SubmitAnswer>;

const StreamTotals = z.object({
  /** Bytes the command wrote; null until its final report. */
  bytes: z.nullable(z.int()),
  sha256: z.nullable(z.string()),
  /** Next offset the server expects: what it holds, gaps included. */
  next: z.int(),
  /** Bytes that are gone for good, with reasons in the log. */
  missing: z.int(),
});

export const Execution = z.object({
  execution_id: z.uuid(),
  command_id: z.uuid(),
  node_uid: z.uuid(),
  node: z.string(),
  attempt: z.int(),
  state: ExecutionState,
  presumed: z.boolean(),
  exit_code: z.nullable(z.int()),
  signal: z.nullable(z.string()),
  error: z.nullable(z.object({ code: z.string(), message: z.string() })),
  not_before: z.nullable(z.string()),
  expires_at: z.string(),
  created_at: z.string(),
  delivered_at: z.nullable(z.string()),
  started_at: z.nullable(z.string()),
  finished_at: z.nullable(z.string()),
  output: z.object({ stdout: StreamTotals, stderr: StreamTotals }),
  /** True when the stored bytes were hashed and equal what the node signed; null while unknown, or where a gap forbids it. */
  output_verified: z.nullable(z.boolean()),
  /** Whether the final report carried the node's own good signature. */
  report_signed: z.boolean(),
  usage: z.nullable(z.unknown()),
  /** Whether the node saw that no process of it was left; null while unknown. */
  tree_empty: z.optional(z.nullable(z.boolean())),
});
export type Execution = z.infer<typeof Execution>;

/** A command as shown: seed 003's columns and ours. */
export const Command = z.object({
  command_id: z.uuid(),
  correlation_id: z.string(),
  command_type: z.string(),
  verb: z.string(),
  payload: z.unknown(),
  args: z.unknown(),
  agent_targets: z.array(z.string()),
  actor: z.object({ kind: z.string(), id: z.string(), name: z.string() }),
  state: CommandState,
  status: CommandState,
  priority: Priority,
  delivery: Delivery,
  max_retries: z.int(),
  retry_count: z.int(),
  output_limit_bytes: z.int(),
  idempotency_key: z.nullable(z.string()),
  created_at: z.string(),
  scheduled_at: z.nullable(z.string()),
  expires_at: z.string(),
  executed_at: z.nullable(z.string()),
  completed_at: z.nullable(z.string()),
  error_message: z.nullable(z.string()),
  /** Nodes by the state of their last attempt, e.g. {"succeeded": 4, "queued": 1}. */
  result: z.record(z.string(), z.int()),
});
export type Command = z.infer<typeof Command>;
