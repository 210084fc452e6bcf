import * as z from 'zod/mini';
import { Envelope } from '../access/dsse.ts';
import { isErrorCode } from '../errors.ts';
import { ConfigName } from './config.ts';

/** One backup of one configuration by one node (or by the server itself), and what is told of it. */

/** `running` until the node has said how it ended; `lost`: the server has heard nothing for too long, and takes the node's word later. */
export const RUN_STATES = ['running', 'completed', 'completed_with_errors', 'failed', 'cancelled', 'lost'] as const;
export const RunState = z.enum(RUN_STATES);
export type RunState = z.infer<typeof RunState>;
export const FINAL_STATES = ['completed', 'completed_with_errors', 'failed', 'cancelled'] as const;
export const FinalState = z.enum(FINAL_STATES);
export type FinalState = z.infer<typeof FinalState>;
/** The archive can be restored. */
export const isGood = (state: RunState): boolean => state === 'completed' || state === 'completed_with_errors';

export const RunPhase = z.enum([
  'waiting',
  'before',
  'scanning',
  'archiving',
  'uploading',
  'finishing',
  'retrying',
  'after',
]);
export type RunPhase = z.infer<typeof RunPhase>;
export const RunTrigger = z.enum(['schedule', 'missed', 'request', 'agent', 'server']);
export type RunTrigger = z.infer<typeof RunTrigger>;

const Count = z.int().check(z.minimum(0));
const Path = z.string().check(z.maxLength(4096));
export const RunReason = z.strictObject({
  code: z.string().check(z.refine(isErrorCode, 'not an error code')),
  message: z.string().check(z.maxLength(2000)),
});
export type RunReason = z.infer<typeof RunReason>;
export const RunProgress = z.strictObject({
  phase: RunPhase,
  attempt: z.int().check(z.positive()),
  files: Count,
  bytes: Count,
  /** Estimates; absent where nothing is known yet. */
  files_total: z.optional(Count),
  bytes_total: z.optional(Count),
  archive_bytes: Count,
  uploaded_bytes: Count,
  bytes_per_sec: z.optional(Count),
  errors: Count,
  /** Where it is now, not UTF-8 bytes replaced. */
  path: z.optional(Path),
  /** Of 'retrying': why the last attempt failed. */
  reason: z.optional(z.string().check(z.maxLength(1000))),
  at: z.iso.datetime(),
});
export type RunProgress = z.infer<typeof RunProgress>;
export const MAX_RUN_ERRORS = 100;
export const FileError = z.strictObject({
  path: Path,
  code: z.string().check(z.maxLength(64)),
  message: z.string().check(z.maxLength(1000)),
});
export type FileError = z.infer<typeof FileError>;
export const RunTotals = z.strictObject({
  files: Count,
  directories: Count,
  others: Count,
  /** Of the files, as read. */
  bytes: Count,
  errors: Count,
});
export type RunTotals = z.infer<typeof RunTotals>;

/** How a run ended. With a good state comes the signed statement. */
export const RunEnd = z
  .strictObject({
    state: FinalState,
    attempt: z.int().check(z.positive()),
    finished_at: z.iso.datetime(),
    duration_ms: Count,
    totals: z.nullable(RunTotals),
    archive_bytes: Count,
    uploaded_bytes: Count,
    errors: z.array(FileError).check(z.maxLength(MAX_RUN_ERRORS)),
    reason: z.nullable(RunReason),
    statement: z.nullable(Envelope),
  })
  .check(
    z.refine((end) => isGood(end.state) === (end.statement !== null), {
      error: 'a run that completed has a statement, and no other',
      path: ['statement'],
    }),
  );
export type RunEnd = z.infer<typeof RunEnd>;

/** The objects of a run, as they lie below `<prefix>/<node uid>/<config id>/<run id>/<attempt>/`. */
export const RunObject = z.enum(['archive', 'manifest', 'statement']);
export type RunObject = z.infer<typeof RunObject>;
export const objectNames = (encrypted: boolean): Readonly<Record<RunObject, string>> => ({
  archive: `archive.tar.zst${encrypted ? '.age' : ''}`,
  manifest: `manifest.ndjson.zst${encrypted ? '.age' : ''}`,
  statement: 'statement.json',
});

export const Run = z.object({
  run_id: z.uuid(),
  config_id: z.uuid(),
  config: ConfigName,
  /** Null for a run of the server's own files. */
  node_uid: z.nullable(z.uuid()),
  node: z.string(),
  /** Of the node's signing key; null for the seed's keyless agents. */
  node_key: z.nullable(z.string()),
  trigger: RunTrigger,
  state: RunState,
  attempt: z.int(),
  /** By the server's clock: retention and alerts go by these. */
  started_at: z.string(),
  finished_at: z.nullable(z.string()),
  progress: z.nullable(RunProgress),
  totals: z.nullable(RunTotals),
  archive_bytes: z.int(),
  uploaded_bytes: z.int(),
  errors: z.array(FileError),
  reason: z.nullable(z.object({ code: z.string(), message: z.string() })),
  encrypted: z.boolean(),
  destination: z.string(),
  tags: z.array(z.string()),
  locked_until: z.nullable(z.string()),
  /** The objects are gone; the record stays for a while. */
  removed_at: z.nullable(z.string()),
  /** The last verification by the server. */
  verified: z.nullable(z.object({ at: z.string(), ok: z.boolean(), message: z.string() })),
});
export type Run = z.infer<typeof Run>;
