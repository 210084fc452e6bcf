import type { SignedRequest } from '@aegis/protocol/backups/node-endpoints';
import type { Failed } from './archive-job.ts';
import type { Wanted } from './s3-signer.ts';

/** What is said between the daemon and the thread that restores. */

export interface RestoreJob {
  kind: 'restore';
  /** What was asked for; the server may answer with another one, as genuine. */
  runId: string;
  from:
    | { kind: 's3'; prefix: string; ca: string | null; retryMs: number; stallMs: number }
    | { kind: 'file'; root: string; segments: readonly string[] };
  encrypted: boolean;
  /** Key id and raw public key, base64, of nodes whose word counts. */
  trusted: readonly (readonly [keyId: string, publicRaw: string])[];
  /** Of age; in memory alone. */
  identities: string | null;
  target: string;
  paths: readonly string[];
  overwrite: 'never' | 'if-newer' | 'always';
  deleteExtra: boolean;
  dryRun: boolean;
  owners: boolean;
  setuid: boolean;
  /** For what does not fit into memory. */
  spoolDir: string;
}

export interface RestoreProgressLine {
  entries: number;
  entries_total: number;
  bytes: number;
  archive_bytes: number;
  errors: number;
  path: string;
}
export interface RestoreDone {
  restored: number;
  skipped: number;
  deleted: number;
  bytes: number;
  error_count: number;
  errors: { path: string; code: string; message: string }[];
  archive_verified: boolean;
}
export type FromRestore =
  | { type: 'progress'; progress: RestoreProgressLine }
  | { type: 'sign'; id: number; wanted: Wanted }
  | { type: 'stale' }
  | { type: 'done'; done: RestoreDone }
  | Failed;
export type ToRestore =
  | { type: 'signed'; id: number; signed: SignedRequest }
  | { type: 'not-signed'; id: number; code: string; message: string }
  | { type: 'abort' };
