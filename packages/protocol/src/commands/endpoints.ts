import * as z from 'zod/mini';
import { Envelope } from '../access/dsse.ts';
import { endpoint } from '../endpoint.ts';
import { NextCursor, Page } from '../paging.ts';
import {
  Ack,
  AckAnswer,
  LogPush,
  LogPushAnswer,
  NextOffsets,
  PollAnswer,
  PollQuery,
  StatusAnswer,
  StatusPush,
  Stream,
} from './carrier.ts';
import { CommandState } from './state.ts';
import { Command, Execution, Priority, SeedSubmission, Submission, SubmitAnswer } from './submission.ts';

const tag = 'commands';
const ById = z.object({ id: z.uuid() });

// The node's side (agent-svc).
export const pollCommands = endpoint({
  id: 'pollCommands',
  door: 'agent-svc',
  method: 'GET',
  path: '/v1/commands/poll',
  caller: 'node',
  channel: 'commands',
  tag,
  summary: 'Wait for work; what is not acknowledged comes again',
  query: PollQuery,
  response: PollAnswer,
});
export const ackCommands = endpoint({
  id: 'ackCommands',
  door: 'agent-svc',
  method: 'POST',
  path: '/v1/commands/ack',
  caller: 'node',
  channel: 'commands',
  tag,
  summary: 'The node has these executions on its own disk',
  body: Ack,
  response: AckAnswer,
});
export const pushLogs = endpoint({
  id: 'pushLogs',
  door: 'agent-svc',
  method: 'POST',
  path: '/v1/commands/logs',
  caller: 'node',
  channel: 'logs',
  tag,
  summary: 'Output by offset; answers the next offsets that the server expects',
  body: LogPush,
  response: LogPushAnswer,
});
export const pushStatus = endpoint({
  id: 'pushStatus',
  door: 'agent-svc',
  method: 'POST',
  path: '/v1/commands/status',
  caller: 'node',
  channel: 'commands',
  tag,
  summary: 'What became of an execution; final once every byte of output is stored',
  body: StatusPush,
  response: StatusAnswer,
});
export const putOutput = endpoint({
  id: 'putOutput',
  door: 'agent-svc',
  method: 'PUT',
  path: '/v1/executions/{id}/output/{stream}',
  caller: 'node',
  channel: 'logs',
  tag,
  summary: 'Raw output bytes at an offset',
  params: z.object({ id: z.uuid(), stream: Stream }),
  query: z.object({ offset: z.coerce.number().check(z.int(), z.minimum(0)) }),
  rawBody: true,
  response: z.object({ next: NextOffsets }),
});
export const seedSubmit = endpoint({
  id: 'seedSubmit',
  door: 'agent-svc',
  method: 'POST',
  path: '/v1/commands/submit',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: 'Submit a command',
  body: SeedSubmission,
  response: SubmitAnswer,
  status: 202,
});

// The operator's side (api).
export const submitCommand = endpoint({
  id: 'submitCommand',
  door: 'api',
  method: 'POST',
  path: '/api/v1/commands',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: 'Submit a command; also with an Idempotency-Key header',
  body: Submission,
  response: SubmitAnswer,
  status: 202,
});
export const CommandQuery = z.object({
  status: z.optional(CommandState),
  priority: z.optional(Priority),
  agent: z.optional(z.string().check(z.maxLength(128))),
  verb: z.optional(z.string().check(z.maxLength(64))),
  correlation_id: z.optional(z.string().check(z.maxLength(255))),
  ...Page,
});
export type CommandQuery = z.infer<typeof CommandQuery>;
export const listCommands = endpoint({
  id: 'listCommands',
  door: 'api',
  method: 'GET',
  path: '/api/v1/commands',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'Commands, newest first, filtered and in pages',
  query: CommandQuery,
  response: z.object({ items: z.array(Command), next_cursor: NextCursor }),
});
export const showCommand = endpoint({
  id: 'showCommand',
  door: 'api',
  method: 'GET',
  path: '/api/v1/commands/{id}',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'One command',
  params: ById,
  response: Command,
});
export const cancelCommand = endpoint({
  id: 'cancelCommand',
  door: 'api',
  method: 'POST',
  path: '/api/v1/commands/{id}/cancel',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: 'Cancel what has not ended, on all nodes or on one',
  params: ById,
  body: z.strictObject({
    node: z.optional(z.string().check(z.maxLength(128))),
    /** The same as an operator signed it. */
    directive: z.optional(Envelope),
  }),
  response: Command,
});
export const retryCommand = endpoint({
  id: 'retryCommand',
  door: 'api',
  method: 'POST',
  path: '/api/v1/commands/{id}/retry',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: 'Submit anew for the nodes on which the command did not succeed',
  params: ById,
  body: z.strictObject({}),
  response: SubmitAnswer,
  status: 202,
});
export const listExecutions = endpoint({
  id: 'listExecutions',
  door: 'api',
  method: 'GET',
  path: '/api/v1/commands/{id}/executions',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'A command on each node, each attempt',
  params: ById,
  query: z.object({ ...Page }),
  response: z.object({ items: z.array(Execution), next_cursor: NextCursor }),
});

/** `<execution id>:<stream>:<offset>`, comma separated. Short enough for a request line; a reader of more trims by itself. */
export const ResumePoints = z
  .string()
  .check(
    z.maxLength(8192),
    z.regex(/^[0-9a-f-]{36}:(stdout|stderr):\d{1,15}(,[0-9a-f-]{36}:(stdout|stderr):\d{1,15})*$/),
  );
/** One line of a followed log; an empty line between two is a sign of life and nothing more.
 *  Server-sent events carry the same object as `data`. */
export const LogLine = z.union([
  z.object({
    type: z.literal('chunk'),
    execution_id: z.uuid(),
    node: z.string(),
    attempt: z.int(),
    stream: Stream,
    offset: z.int(),
    data: z.string(),
    encoding: z.enum(['utf8', 'base64']),
  }),
  z.object({
    type: z.literal('gap'),
    execution_id: z.uuid(),
    node: z.string(),
    attempt: z.int(),
    stream: Stream,
    offset: z.int(),
    gap: z.int(),
    reason: z.string(),
  }),
  z.object({ type: z.literal('state'), execution: Execution }),
  z.object({ type: z.literal('end'), command: Command }),
]);
export type LogLine = z.infer<typeof LogLine>;
export const readLogs = endpoint({
  id: 'readLogs',
  door: 'api',
  method: 'GET',
  path: '/api/v1/commands/{id}/logs',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'Output: events or NDJSON of all nodes, or the bytes of one stream of one node, with ranges',
  params: ById,
  query: z.object({
    node: z.optional(z.string().check(z.maxLength(128))),
    attempt: z.optional(z.coerce.number().check(z.int(), z.minimum(1))),
    stream: z.optional(Stream),
    offset: z.optional(z.coerce.number().check(z.int(), z.minimum(0))),
    /** Where a reader goes on after a broken connection, for NDJSON and events: bytes before these offsets are left out. */
    from: z.optional(ResumePoints),
    follow: z.optional(z.enum(['true', 'false', '1', '0', ''])),
  }),
  produces: ['application/x-ndjson', 'text/event-stream', 'application/octet-stream'],
});
export const statistics = endpoint({
  id: 'statistics',
  door: 'api',
  method: 'GET',
  path: '/api/v1/statistics',
  caller: 'viewer',
  scope: 'fleet',
  tag: 'health',
  summary: 'Fleet, queue and storage figures',
  response: z.object({
    nodes: z.object({ total: z.int(), by_status: z.record(z.string(), z.int()) }),
    commands: z.object({ by_state: z.record(z.string(), z.int()) }),
    executions: z.object({ by_state: z.record(z.string(), z.int()) }),
    storage: z.object({ kind: z.string(), output_bytes: z.int() }),
    uptime_sec: z.number(),
  }),
});
