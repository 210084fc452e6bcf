import type { Credentials, Excludes, S3Destination } from '@aegis/protocol/backups/config';
import type { FileError, RunTotals } from '@aegis/protocol/backups/run';
import type { S3Bounds } from '../s3/client.ts';

/** What is said between the server and the thread that packs and stores an archive. */

export interface OwnJob {
  sources: readonly string[];
  excludes: Excludes;
  level: number;
  recipients: readonly string[];
  header: Readonly<Record<string, unknown>>;
  maxArchiveBytes: number;
  output:
    | {
        kind: 's3';
        destination: S3Destination;
        credentials: Credentials | null;
        bounds: Partial<S3Bounds>;
        archiveKey: string;
        manifestKey: string;
        /** Milliseconds. */
        lockedUntil: number | null;
      }
    | { kind: 'file'; archive: string; manifest: string };
}
export interface OwnProgress {
  phase: 'scanning' | 'archiving';
  files: number;
  bytes: number;
  archiveBytes: number;
  errors: number;
  path: string;
}
export interface Stored {
  archive: { bytes: number; sha256: string };
  manifest: { bytes: number; sha256: string };
  totals: RunTotals;
  errors: FileError[];
}
export type FromThread =
  | { type: 'progress'; progress: OwnProgress; uploaded: number }
  | { type: 'done'; stored: Stored }
  | { type: 'failed'; code: string | null; message: string };
