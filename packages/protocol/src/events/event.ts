/** events: what happens in the fleet, as it is told to whoever listens (GET /api/v1/events). The server writes and tells these, the CLI and
 *  docs/events.md show them. Invariant: fields are only ever added, an id is told once and never means anything else.
 *  Must not: carry a secret, a payload of a command, or output. */
import * as z from 'zod/mini';
import { ArtifactState } from '../artifacts/status.ts';
import { RUN_STATES, RunTrigger } from '../backups/run.ts';
import { ExecutionState } from '../commands/state.ts';
import { MessageState } from '../messages/message.ts';

/** Ids rise; what lies between two of them says nothing. A text: they are larger than what every JSON reader keeps exact. */
export const EventId = z.string().check(
  z.regex(/^(?:0|[1-9]\d{0,15})$/),
  z.refine((text) => Number(text) <= Number.MAX_SAFE_INTEGER, 'no id of an event is so large'),
);
export type EventId = z.infer<typeof EventId>;

/** Of the part of an event that depends on its type, as JSON. */
export const MAX_EVENT_CHARS = 64 * 1024;

const NODE = ['enrolled', 'connected', 'disconnected', 'carrier', 'maintenance', 'activated', 'deactivated', 'retired'];
const ALERT = ['backup.failed', 'backup.overdue', 'backup.recovered', 'backup.damaged'];
const MESSAGE = Object.values(MessageState.def.entries);
const of = (group: string, names: readonly string[]): string[] => names.map((name) => `${group}.${name}`);

export const EVENT_TYPES: readonly string[] = [
  ...of('node', NODE),
  ...of('execution', Object.values(ExecutionState.def.entries)),
  ...of('attachment', Object.values(ArtifactState.def.entries)),
  ...of('run', RUN_STATES),
  ...of('alert', ALERT),
  ...of('message', MESSAGE),
];

/** `execution` means every `execution.…`. */
export const typeMatches = (type: string, wanted: string): boolean => type === wanted || type.startsWith(`${wanted}.`);
export const isEventFilter = (wanted: string): boolean => EVENT_TYPES.some((type) => typeMatches(type, wanted));

const Fault = z.object({ code: z.string(), message: z.string() });
const Common = {
  id: EventId,
  at: z.string(),
  /** Null where it is about no node. */
  node_uid: z.nullable(z.string()),
  /** Its name at that time. */
  node: z.nullable(z.string()),
};
const Carrier = z.enum(['ws', 'poll']);

export const NodeEvent = z.object({
  ...Common,
  type: z.enum(of('node', NODE)),
  /** Of `connected` and `carrier`: how the node is reached now. */
  carrier: z.optional(Carrier),
  /** Of `disconnected`: `closed`, its connection ended; `silent`, nothing was heard for too long. */
  reason: z.optional(z.enum(['closed', 'silent'])),
  /** Of `maintenance`. */
  maintenance: z.optional(z.boolean()),
  /** Of `enrolled`. */
  keyless: z.optional(z.boolean()),
});
export const ExecutionEvent = z.object({
  ...Common,
  type: z.enum(of('execution', Object.values(ExecutionState.def.entries))),
  execution_id: z.string(),
  command_id: z.string(),
  attempt: z.int(),
  /** The server decided it alone; the node's own word may change it yet. */
  presumed: z.boolean(),
  exit_code: z.nullable(z.int()),
  signal: z.nullable(z.string()),
  error: z.nullable(Fault),
});
export const AttachmentEvent = z.object({
  ...Common,
  type: z.enum(of('attachment', Object.values(ArtifactState.def.entries))),
  artifact: z.string(),
  version: z.nullable(z.string()),
  generation: z.int(),
  reason: z.nullable(Fault),
});
export const RunEvent = z.object({
  ...Common,
  type: z.enum(of('run', RUN_STATES)),
  run_id: z.string(),
  config_id: z.string(),
  config: z.string(),
  trigger: RunTrigger,
  attempt: z.int(),
  archive_bytes: z.int(),
  uploaded_bytes: z.int(),
  reason: z.nullable(Fault),
});
export const AlertEvent = z.object({
  ...Common,
  type: z.enum(of('alert', ALERT)),
  alert_id: z.string(),
  message: z.string(),
  config_id: z.string(),
  config: z.string(),
  run_id: z.nullable(z.string()),
  since: z.nullable(z.string()),
  reason: z.nullable(Fault),
});
/** Never what the message says, nor the reply. */
export const MessageEvent = z.object({
  ...Common,
  type: z.enum(of('message', MESSAGE)),
  message_id: z.string(),
  channel: z.string(),
  error: z.nullable(Fault),
});

export const FleetEvent = z.union([NodeEvent, ExecutionEvent, AttachmentEvent, RunEvent, AlertEvent, MessageEvent]);
export type FleetEvent = z.infer<typeof FleetEvent>;

/** Between `from` and `id` there may have been events that this reader is not told any more. */
export const EventGap = z.object({
  type: z.literal('gap'),
  id: EventId,
  from: EventId,
  /** `retention`: they were removed, being old or too many. `unknown_id`: the server knows no event `from`; it was restored from a backup, or
   *  the id is another fleet's. */
  reason: z.enum(['retention', 'unknown_id']),
});
export type EventGap = z.infer<typeof EventGap>;
/** Everything up to `id` was looked at: where to go on after a break. Only in NDJSON; server-sent events have `id:` alone. */
export const EventPosition = z.object({ type: z.literal('position'), id: EventId });
/** Of a reader that does not follow: this was all up to now. */
export const EventsEnd = z.object({ type: z.literal('end'), id: EventId });

export const EventLine = z.union([FleetEvent, EventGap, EventPosition, EventsEnd]);
export type EventLine = z.infer<typeof EventLine>;
