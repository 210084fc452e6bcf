import * as z from 'zod/mini';
import { endpoint } from '../endpoint.ts';
import { NextCursor, Page } from '../paging.ts';
import { BackupSpec, ConfigName, Credentials } from './config.ts';
import { Run, RunObject, RunState } from './run.ts';

/** The operator's side of backups: configurations, runs, what is kept, and the way to a run's objects. */

const tag = 'backups';
/** A configuration's id or name; a run's id. */
const ById = z.object({ id: z.string().check(z.minLength(1), z.maxLength(128)) });
const Text = (most: number) => z.string().check(z.minLength(1), z.maxLength(most));

export const BackupConfig = z.object({
  config_id: z.uuid(),
  ...BackupSpec.shape,
  /** The access key id where the configuration has credentials of its own; the secret is never shown. */
  credentials: z.nullable(z.object({ access_key_id: z.string() })),
  /** Counts the changes. */
  revision: z.int(),
  created_at: z.string(),
  created_by: z.string(),
  updated_at: z.string(),
  updated_by: z.string(),
  /** Nodes that it is assigned to now. */
  assigned: z.int(),
  last_run: z.nullable(z.object({ run_id: z.uuid(), node: z.string(), state: RunState, started_at: z.string() })),
  /** What the destination was found to lack; null until it was probed. */
  probe: z.nullable(
    z.object({ at: z.string(), ok: z.boolean(), conditional_writes: z.boolean(), notes: z.array(z.string()) }),
  ),
});
export type BackupConfig = z.infer<typeof BackupConfig>;

const Change = {
  /** Absent: those that it has stay. Null: taken away, the server's own are used. */
  credentials: z.optional(z.nullable(Credentials)),
  /** Looks at the destination before anything is stored; false for one that is not there yet. */
  probe: z._default(z.boolean(), true),
  dry_run: z._default(z.boolean(), false),
};
export const NewConfig = z.strictObject({ spec: BackupSpec, ...Change });
export type NewConfig = z.infer<typeof NewConfig>;
export const ConfigAnswer = z.object({
  config: BackupConfig,
  changed: z.boolean(),
  /** One line per field that differs: its dotted path, before and after as JSON (null: not there). */
  diff: z.array(z.object({ field: z.string(), before: z.nullable(z.string()), after: z.nullable(z.string()) })),
  nodes: z.object({ added: z.array(z.string()), removed: z.array(z.string()), unchanged: z.int() }),
});
export type ConfigAnswer = z.infer<typeof ConfigAnswer>;
export const createConfig = endpoint({
  id: 'createBackupConfig',
  door: 'api',
  method: 'POST',
  path: '/api/v1/backups/configs',
  caller: 'operator',
  scope: 'fleet',
  tag,
  summary: 'Create a backup configuration',
  body: NewConfig,
  response: ConfigAnswer,
  status: 201,
});
export const putConfig = endpoint({
  id: 'putBackupConfig',
  door: 'api',
  method: 'PUT',
  path: '/api/v1/backups/configs/{id}',
  caller: 'operator',
  scope: 'fleet',
  tag,
  summary: 'Make the configuration of this id or name be so, creating it where there is none; says what differed',
  params: ById,
  body: z.strictObject({
    ...NewConfig.shape,
    /** The revision that the change was made from: another one is a conflict. */
    if_revision: z.optional(z.int().check(z.positive())),
  }),
  response: ConfigAnswer,
});
export const ConfigQuery = z.object({ node: z.optional(Text(128)), ...Page });
export const listConfigs = endpoint({
  id: 'listBackupConfigs',
  door: 'api',
  method: 'GET',
  path: '/api/v1/backups/configs',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'Backup configurations by name',
  query: ConfigQuery,
  response: z.object({ items: z.array(BackupConfig), next_cursor: NextCursor }),
});
export const showConfig = endpoint({
  id: 'showBackupConfig',
  door: 'api',
  method: 'GET',
  path: '/api/v1/backups/configs/{id}',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'One configuration, by id or name',
  params: ById,
  response: BackupConfig,
});
export const deleteConfig = endpoint({
  id: 'deleteBackupConfig',
  door: 'api',
  method: 'DELETE',
  path: '/api/v1/backups/configs/{id}',
  caller: 'operator',
  scope: 'fleet',
  tag,
  summary: 'Take a configuration off its nodes and remove it; archives and the records of its runs stay',
  params: ById,
  response: BackupConfig,
});
export const probeConfig = endpoint({
  id: 'probeBackupConfig',
  door: 'api',
  method: 'POST',
  path: '/api/v1/backups/configs/{id}/probe',
  caller: 'operator',
  scope: 'fleet',
  tag,
  summary: 'Try the destination: reach, write, conditional writes, clean up; says what it lacks',
  params: ById,
  response: BackupConfig,
});
export const runConfig = endpoint({
  id: 'runBackupConfig',
  door: 'api',
  method: 'POST',
  path: '/api/v1/backups/configs/{id}/run',
  caller: 'operator',
  scope: 'fleet',
  tag,
  summary: "Back up the server's own files now, by a configuration of execution_mode 'server'; answers before the end",
  params: ById,
  response: Run,
  status: 202,
});
/** One node under one configuration. */
export const ConfigNode = z.object({
  node: z.string(),
  node_uid: z.uuid(),
  online: z.boolean(),
  generation: z.int(),
  /** The node has said that it holds this generation. */
  taken: z.boolean(),
  next_run_at: z.nullable(z.string()),
  last_run: z.nullable(Run),
  last_good: z.nullable(z.object({ run_id: z.uuid(), started_at: z.string() })),
  overdue: z.boolean(),
  refusal: z.nullable(z.object({ code: z.string(), message: z.string() })),
});
export type ConfigNode = z.infer<typeof ConfigNode>;
export const configNodes = endpoint({
  id: 'backupConfigNodes',
  door: 'api',
  method: 'GET',
  path: '/api/v1/backups/configs/{id}/nodes',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'How each node stands under a configuration',
  params: ById,
  query: z.object({ ...Page }),
  response: z.object({ items: z.array(ConfigNode), next_cursor: NextCursor }),
});
export const assignConfig = endpoint({
  id: 'assignBackupConfig',
  door: 'api',
  method: 'POST',
  path: '/api/v1/backups/configs/{id}/assign',
  caller: 'operator',
  scope: 'fleet',
  tag,
  summary: 'Add names and selectors to a configuration, or take them off',
  params: ById,
  body: z.strictObject({
    add: z._default(z.array(Text(1024)).check(z.maxLength(1000)), []),
    remove: z._default(z.array(Text(1024)).check(z.maxLength(1000)), []),
    dry_run: z._default(z.boolean(), false),
  }),
  response: ConfigAnswer,
});
/** What retention makes of each run of a node's history, the newest first. */
export const Decision = z.object({
  run_id: z.uuid(),
  node: z.string(),
  started_at: z.string(),
  state: RunState,
  keep: z.boolean(),
  reasons: z.array(z.string()),
  removed: z.boolean(),
});
export type Decision = z.infer<typeof Decision>;
export const forgetRuns = endpoint({
  id: 'forgetBackupRuns',
  door: 'api',
  method: 'POST',
  path: '/api/v1/backups/configs/{id}/forget',
  caller: 'operator',
  scope: 'fleet',
  tag,
  summary: "Apply a configuration's retention now, or show what it would remove and why",
  params: ById,
  body: z.strictObject({ dry_run: z._default(z.boolean(), false), node: z.optional(Text(128)) }),
  bodyOptional: true,
  response: z.object({ decisions: z.array(Decision) }),
});

export const RunQuery = z.object({
  config: z.optional(Text(128)),
  node: z.optional(Text(128)),
  state: z.optional(RunState),
  /** Runs whose objects are gone are left out unless asked for. */
  removed: z.optional(z.enum(['true', 'false'])),
  ...Page,
});
export type RunQuery = z.infer<typeof RunQuery>;
export const listRuns = endpoint({
  id: 'listBackupRuns',
  door: 'api',
  method: 'GET',
  path: '/api/v1/backups/runs',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'Runs, the newest first',
  query: RunQuery,
  response: z.object({ items: z.array(Run), next_cursor: NextCursor }),
});
export const showRun = endpoint({
  id: 'showBackupRun',
  door: 'api',
  method: 'GET',
  path: '/api/v1/backups/runs/{id}',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'One run; `latest:CONFIG` and `latest:CONFIG@NODE` name the newest that can be restored',
  params: ById,
  response: Run,
});
export const cancelRun = endpoint({
  id: 'cancelBackupRun',
  door: 'api',
  method: 'POST',
  path: '/api/v1/backups/runs/{id}/cancel',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: 'Ask the node to end a run; it hears of it with its next sign of progress',
  params: ById,
  response: Run,
});
export const RunLogLine = z.object({
  at: z.string(),
  level: z.enum(['debug', 'info', 'warning', 'error']),
  message: z.string(),
  metadata: z.nullable(z.record(z.string(), z.unknown())),
});
export type RunLogLine = z.infer<typeof RunLogLine>;
export const runLog = endpoint({
  id: 'backupRunLog',
  door: 'api',
  method: 'GET',
  path: '/api/v1/backups/runs/{id}/log',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'What was logged of a run, oldest first',
  params: ById,
  query: z.object({ ...Page }),
  response: z.object({ items: z.array(RunLogLine), next_cursor: NextCursor }),
});
/** Of a node outside of any run too (the seed's agents). */
export const NodeLogLine = z.object({ ...RunLogLine.shape, run_id: z.nullable(z.uuid()) });
export type NodeLogLine = z.infer<typeof NodeLogLine>;
export const nodeLog = endpoint({
  id: 'nodeLog',
  door: 'api',
  method: 'GET',
  path: '/api/v1/agents/{id}/logs',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'What a node logged of its backups, and an agent of itself, oldest first',
  params: ById,
  query: z.object({ ...Page }),
  response: z.object({ items: z.array(NodeLogLine), next_cursor: NextCursor }),
});
export const ObjectLink = z.object({
  object: RunObject,
  key: z.string(),
  /** For GET, with ranges; holds until `expires_at`. */
  url: z.string(),
  expires_at: z.string(),
});
export type ObjectLink = z.infer<typeof ObjectLink>;
export const runLinks = endpoint({
  id: 'backupRunLinks',
  door: 'api',
  method: 'POST',
  path: '/api/v1/backups/runs/{id}/links',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: "Links to a run's objects in S3, for restoring without credentials (audited)",
  params: ById,
  response: z.object({ run: Run, links: z.array(ObjectLink) }),
});
export const grantRestore = endpoint({
  id: 'grantBackupRestore',
  door: 'api',
  method: 'POST',
  path: '/api/v1/backups/runs/{id}/grants',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: "Let another node read a run's objects for a while, to restore them there",
  params: ById,
  body: z.strictObject({
    node: Text(128),
    ttl_sec: z._default(z.int().check(z.minimum(60), z.maximum(7 * 86_400)), 86_400),
  }),
  response: z.object({ node: z.string(), node_uid: z.uuid(), expires_at: z.string() }),
});
export const verifyRun = endpoint({
  id: 'verifyBackupRun',
  door: 'api',
  method: 'POST',
  path: '/api/v1/backups/runs/{id}/verify',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: "Let the server fetch a run's objects and compare them with the node's signed statement (no key is needed)",
  params: ById,
  response: Run,
});
/** The names of a configuration and nothing else, for completion and diffs. */
export const ConfigRef = z.object({ config_id: z.uuid(), name: ConfigName });
