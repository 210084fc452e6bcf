import * as z from 'zod/mini';
import { endpoint } from '../endpoint.ts';
import { S3Destination } from './config.ts';
import { FileError, MAX_RUN_ERRORS, Run, RunEnd, RunObject, RunProgress, RunTrigger } from './run.ts';

/** A node's own side of its runs, with its token. Whatever is about a run names it in the path; a run of another node is not found. */

const tag = 'backups';
const ById = z.object({ id: z.uuid() });
const Attempt = z.int().check(z.positive(), z.maximum(1000));
const Hex256 = z.string().check(z.regex(/^[0-9a-f]{64}$/, '64 hexadecimal digits'));
const PartNumber = z.int().check(z.positive(), z.maximum(10_000));
const Key = z.string().check(z.minLength(1), z.maxLength(1024));

export const StartRun = z.strictObject({
  /** Made by the node: the same again is the same run. */
  run_id: z.uuid(),
  config_id: z.uuid(),
  generation: z.int().check(z.positive()),
  attempt: Attempt,
  trigger: RunTrigger,
  /** Of the schedule, where one started it. */
  scheduled_at: z.optional(z.iso.datetime()),
});
export type StartRun = z.infer<typeof StartRun>;
export const RunGrant = z.object({
  run_id: z.uuid(),
  attempt: Attempt,
  started_at: z.string(),
  /** Ends with a slash; the objects' names follow. For `file` destinations below their path. */
  prefix: z.string(),
  /** What may be written at most, all objects together. */
  max_bytes: z.int(),
  /** A credential for STS and static access: JSON sealed to the node's sealing key (NaCl box with an ephemeral key: its public key,
   *  the nonce, the box; base64). Null in the other ways. */
  sealed_credentials: z.nullable(z.string()),
  /** The destination knows If-None-Match on PutObject. */
  conditional_writes: z.boolean(),
  /** The run was cancelled already. */
  cancelled: z.boolean(),
});
export type RunGrant = z.infer<typeof RunGrant>;
/** Inside `sealed_credentials`. */
export const SealedCredentials = z.strictObject({
  access_key_id: z.string(),
  secret_access_key: z.string(),
  session_token: z.optional(z.string()),
  expires_at: z.optional(z.string()),
});
export type SealedCredentials = z.infer<typeof SealedCredentials>;
export const startRun = endpoint({
  id: 'startBackupRun',
  door: 'backup',
  method: 'POST',
  path: '/v1/backups/runs',
  caller: 'node',
  channel: 'backups',
  tag,
  summary: 'A run, or another attempt of one, begins; a repeat answers as the first did',
  body: StartRun,
  response: RunGrant,
});
export const openUpload = endpoint({
  id: 'openBackupUpload',
  door: 'backup',
  method: 'POST',
  path: '/v1/backups/runs/{id}/uploads',
  caller: 'node',
  channel: 'backups',
  tag,
  summary: 'Begin a multipart upload of an object of the run; a repeat answers the same upload id',
  params: ById,
  body: z.strictObject({ attempt: Attempt, object: RunObject }),
  response: z.object({ upload_id: z.string(), key: z.string() }),
});
export const CloseUpload = z.strictObject({
  attempt: Attempt,
  object: RunObject,
  upload_id: z.string().check(z.minLength(1), z.maxLength(1024)),
  parts: z
    .array(
      z.strictObject({
        number: PartNumber,
        etag: z.string().check(z.minLength(1), z.maxLength(256)),
        bytes: z.int().check(z.minimum(0)),
      }),
    )
    .check(z.minLength(1), z.maxLength(10_000)),
  bytes: z.int().check(z.minimum(0)),
  sha256: Hex256,
});
export type CloseUpload = z.infer<typeof CloseUpload>;
export const closeUpload = endpoint({
  id: 'closeBackupUpload',
  door: 'backup',
  method: 'POST',
  path: '/v1/backups/runs/{id}/uploads/complete',
  caller: 'node',
  channel: 'backups',
  tag,
  summary: 'Complete a multipart upload: the server does it, and compares the size; a repeat answers as the first did',
  params: ById,
  body: CloseUpload,
  bodyLimitBytes: 4 * 1024 * 1024,
  response: z.object({ key: z.string(), bytes: z.int() }),
});

/** A request to S3 as the node means to send it. Nothing of it is signed as it stands: the server makes the canonical request itself, of
 *  what it allows. */
export const WantedRequest = z.strictObject({
  method: z.enum(['GET', 'PUT', 'POST', 'DELETE', 'HEAD']),
  /** Of the object, decoded; empty for a listing of the bucket. */
  key: z.string().check(z.maxLength(1024)),
  query: z._default(z.record(z.string().check(z.maxLength(128)), z.string().check(z.maxLength(2048))), {}),
  /** Those to be signed beside host, date and payload hash; lower-case names. */
  headers: z._default(z.record(z.string().check(z.maxLength(128)), z.string().check(z.maxLength(2048))), {}),
  content_length: z._default(z.int().check(z.minimum(0)), 0),
  /** Hexadecimal, or UNSIGNED-PAYLOAD. */
  payload_sha256: z.string().check(z.maxLength(64)),
});
export type WantedRequest = z.infer<typeof WantedRequest>;
export const SignRequests = z.strictObject({
  /** The run that writes, or the one that is read for a restore. */
  run_id: z.uuid(),
  requests: z.array(WantedRequest).check(z.minLength(1), z.maxLength(64)),
});
export type SignRequests = z.infer<typeof SignRequests>;
export const SignedRequest = z.object({
  url: z.string(),
  /** All that must be sent exactly so; none for a presigned URL but those that it names. */
  headers: z.record(z.string(), z.string()),
  expires_at: z.string(),
});
export type SignedRequest = z.infer<typeof SignedRequest>;
export const signRequests = endpoint({
  id: 'signBackupRequests',
  door: 'backup',
  method: 'POST',
  path: '/v1/backups/sign',
  caller: 'node',
  channel: 'backups',
  tag,
  summary:
    'Signatures for requests to S3: create-only puts and parts of the own run, reads below the own prefix, nothing else',
  body: SignRequests,
  response: z.object({ signed: z.array(SignedRequest) }),
});
export const postProgress = endpoint({
  id: 'postBackupProgress',
  door: 'backup',
  method: 'POST',
  path: '/v1/backups/runs/{id}/progress',
  caller: 'node',
  channel: 'backups',
  tag,
  summary: 'How far a run is; the answer says whether it was cancelled',
  params: ById,
  body: RunProgress,
  response: z.object({ cancelled: z.boolean() }),
});
export const endRun = endpoint({
  id: 'endBackupRun',
  door: 'backup',
  method: 'POST',
  path: '/v1/backups/runs/{id}/end',
  caller: 'node',
  channel: 'backups',
  tag,
  summary: 'How a run ended, for good; a repeat changes nothing',
  params: ById,
  body: RunEnd,
  bodyLimitBytes: 1024 * 1024,
  response: z.object({
    stored: z.boolean(),
    /** Of `file` destinations, what retention removes: the node does it, since only it can. */
    forget: z.array(z.object({ config_id: z.uuid(), run_id: z.uuid() })),
  }),
});
export const LogLines = z.strictObject({
  lines: z
    .array(
      z.strictObject({
        at: z.iso.datetime(),
        level: z.enum(['debug', 'info', 'warning', 'error']),
        message: z.string().check(z.maxLength(4096)),
        metadata: z.optional(z.record(z.string().check(z.maxLength(128)), z.unknown())),
      }),
    )
    .check(z.minLength(1), z.maxLength(100)),
});
export const postRunLog = endpoint({
  id: 'postBackupRunLog',
  door: 'backup',
  method: 'POST',
  path: '/v1/backups/runs/{id}/log',
  caller: 'node',
  channel: 'backups',
  tag,
  summary: 'Lines of a run for its log',
  params: ById,
  body: LogLines,
  response: z.object({ stored: z.int() }),
});
/** What a node needs to restore a run that it may read: its own, or one that it was granted. */
export const RestoreSource = z.object({
  run: Run,
  destination: z.union([S3Destination, z.object({ kind: z.literal('file'), path: z.string() })]),
  prefix: z.string(),
  /** Raw, base64, of the node that signed (`run.node_key` is its id, by which the reader decides): it need not be the reader's own. */
  node_public_key: z.optional(z.nullable(z.string())),
  /** As in RunGrant. */
  sealed_credentials: z.nullable(z.string()),
});
export type RestoreSource = z.infer<typeof RestoreSource>;
export const restoreSource = endpoint({
  id: 'backupRestoreSource',
  door: 'backup',
  method: 'GET',
  path: '/v1/backups/runs/{id}',
  caller: 'node',
  channel: 'backups',
  tag,
  summary: 'Where the objects of a run lie that this node may read',
  params: ById,
  response: RestoreSource,
});
/** How this node stands with its configurations. */
export const ConfigReports = z.strictObject({
  configs: z
    .array(
      z.strictObject({
        config_id: z.uuid(),
        generation: z.int().check(z.positive()),
        next_run_at: z.nullable(z.iso.datetime()),
        refusal: z.nullable(
          z.strictObject({ code: z.string().check(z.maxLength(64)), message: z.string().check(z.maxLength(2000)) }),
        ),
      }),
    )
    .check(z.maxLength(1000)),
});
export type ConfigReports = z.infer<typeof ConfigReports>;
export const putConfigReports = endpoint({
  id: 'putBackupConfigReports',
  door: 'backup',
  method: 'PUT',
  path: '/v1/backups/configs/status',
  caller: 'node',
  channel: 'backups',
  tag,
  summary: 'Which generation of each configuration the node holds, and when it runs next',
  body: ConfigReports,
  response: z.object({ stored: z.boolean() }),
});

export { FileError, Key, MAX_RUN_ERRORS };
