import * as z from 'zod/mini';
import { Envelope } from '../access/dsse.ts';
import { ExecutionState, FINAL_STATES } from './state.ts';
import { Delivery, Priority } from './submission.ts';

/** What travels between server and node, whichever carrier takes it. Ids are the sender's; receiving twice changes nothing. */

export const STREAMS = ['stdout', 'stderr'] as const;
export const Stream = z.enum(STREAMS);
export type Stream = z.infer<typeof Stream>;
const Offset = z.int().check(z.minimum(0));

/** The body of a `command.run` directive: everything the node needs, nothing that it must trust from outside the signature. */
export const RunBody = z.object({
  command_type: z.string(),
  payload: z.unknown(),
  priority: Priority,
  delivery: Delivery,
  output_limit_bytes: Offset,
});
export type RunBody = z.infer<typeof RunBody>;
/** Of JSON in UTF-8: what base64 makes of a larger one, with the rest of its directive, no envelope takes. */
export const MAX_PAYLOAD_BYTES = 6 * 1024 * 1024 - 4096;
/** The body of a `command.cancel` directive; its id is its own, this one names the command. */
export const CancelBody = z.object({ command_id: z.uuid() });
export type CancelBody = z.infer<typeof CancelBody>;

export const OfferedCommand = z.object({
  kind: z.enum(['command.run', 'command.cancel']),
  command_id: z.uuid(),
  execution_id: z.uuid(),
  attempt: z.int().check(z.positive()),
  /** Convenience for keyless pollers. A daemon reads only what the directive signs. */
  command_type: z.optional(z.string()),
  payload: z.optional(z.unknown()),
  directive: Envelope,
  /** The operators' own directive, where they signed one: what a strict node obeys in the place of the server's. */
  operator_directive: z.optional(Envelope),
});
export type OfferedCommand = z.infer<typeof OfferedCommand>;

export const POLL_LIMIT = 100;
export const PollQuery = z.object({
  /** Seconds to wait for something to do; at most 60. */
  wait: z._default(z.coerce.number().check(z.minimum(0), z.maximum(60)), 0),
  /** A node that has just started asks at once for everything that it never acknowledged. */
  resume: z.optional(z.enum(['true', 'false'])),
  /** The revision of its desired state that the node holds: the answer comes at once when there is another. */
  desired: z.optional(z.coerce.number().check(z.int(), z.minimum(0))),
});
export const PollAnswer = z.object({
  commands: z.array(OfferedCommand),
  server_time: z.string(),
  /** The revision of the node's desired state; told to those who ask with `desired`. */
  desired: z.optional(z.int()),
  /** The server is going away: come back after this long, with jitter. */
  retry_after_ms: z.optional(z.int()),
});
export type PollAnswer = z.infer<typeof PollAnswer>;

export const Ack = z.object({ ids: z.array(z.uuid()).check(z.maxLength(1000)) });
export const AckAnswer = z.object({ acknowledged: z.int() });

const DataChunk = z.object({
  offset: Offset,
  stream: Stream,
  data: z.string(),
  encoding: z.optional(z.enum(['utf8', 'base64'])),
});
/** Bytes that are gone for good: `gap` of them from `offset` on. */
const GapChunk = z.object({
  offset: Offset,
  stream: Stream,
  gap: z.int().check(z.positive()),
  reason: z.string().check(z.minLength(1), z.maxLength(256)),
});
export const Chunk = z.union([DataChunk, GapChunk]);
export type Chunk = z.infer<typeof Chunk>;
/** Gap reasons that our daemon uses. */
export const GAP_REASONS = { limit: 'output_limit', freed: 'freed_after_ack', lost: 'supervisor_lost' } as const;

export const LogPush = z.object({
  command_id: z.uuid(),
  execution_id: z.optional(z.uuid()),
  chunks: z.array(Chunk).check(z.maxLength(1000)),
});
export type LogPush = z.infer<typeof LogPush>;
export const NextOffsets = z.object({ stdout: Offset, stderr: Offset });
export type NextOffsets = z.infer<typeof NextOffsets>;
export const LogPushAnswer = z.object({ next: NextOffsets });

const StreamReport = z.object({ bytes: Offset, sha256: z.nullable(z.string().check(z.regex(/^[0-9a-f]{64}$/))) });
/** What a node says of an execution; the same fields are DSSE-signed in `report`. */
export const ReportFields = {
  command_id: z.uuid(),
  execution_id: z.optional(z.uuid()),
  attempt: z.optional(z.int().check(z.positive())),
  state: z.enum(['delivered', 'running', ...FINAL_STATES]),
  exit_code: z.optional(z.nullable(z.int())),
  signal: z.optional(z.nullable(z.string().check(z.maxLength(32)))),
  started_at: z.optional(z.nullable(z.iso.datetime())),
  finished_at: z.optional(z.nullable(z.iso.datetime())),
  /** Totals of what the command wrote; sha256 null when it cannot be known (the supervisor was lost). */
  output: z.optional(z.object({ stdout: StreamReport, stderr: StreamReport })),
  usage: z.optional(
    z.nullable(z.object({ user_us: z.int(), system_us: z.int(), max_rss_kb: z.int(), duration_ms: z.int() })),
  ),
  tree_empty: z.optional(z.boolean()),
  error: z.optional(
    z.nullable(z.object({ code: z.string().check(z.maxLength(64)), message: z.string().check(z.maxLength(2048)) })),
  ),
};
export const Report = z.object(ReportFields);
export type Report = z.infer<typeof Report>;
/** One report as posted. `chunks` may carry the whole small output along, stored in the same transaction. */
export const PostedReport = z.object({
  ...ReportFields,
  report: z.optional(Envelope),
  chunks: z.optional(z.array(Chunk).check(z.maxLength(64))),
});
export type PostedReport = z.infer<typeof PostedReport>;

/** The seed's single report, or ours: up to 100 at once, each answered for itself. */
export const StatusPush = z.union([
  z.object({ reports: z.array(PostedReport).check(z.minLength(1), z.maxLength(100)) }),
  PostedReport,
]);
export const ReportResult = z.object({
  execution_id: z.uuid(),
  state: ExecutionState,
  next: NextOffsets,
  /** Set when this report was refused, e.g. commands.output_incomplete: send the missing bytes, then the report again. */
  error: z.optional(z.object({ code: z.string(), message: z.string() })),
});
export type ReportResult = z.infer<typeof ReportResult>;
export const StatusAnswer = z.object({ results: z.array(ReportResult) });
