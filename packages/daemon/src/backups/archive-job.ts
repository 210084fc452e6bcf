import type { Excludes } from '@aegis/protocol/backups/config';
import type { Archived } from './repository.ts';

/** What is said between the daemon and the thread that packs an archive. */

export interface ArchiveJob {
  kind: 'archive';
  sources: readonly string[];
  excludes: Excludes;
  /** Absolute: folders that the backup itself writes to. */
  leaveOut: readonly string[];
  level: number;
  recipients: readonly string[];
  /** Of the manifest's first line. */
  header: Readonly<Record<string, unknown>>;
  maxArchiveBytes: number | undefined;
  /** Of the last run, for the progress. */
  estimate: { files: number; bytes: number } | null;
  output: ArchiveOutput;
}
export type ArchiveOutput =
  /** Parts `archive.NNNNN` and one `manifest` in this folder; at most `aheadParts` whole ones before it hears of room. */
  | { kind: 'spool'; folder: string; firstPartBytes: number; aheadParts: number }
  /** Open files, written from their beginning. */
  | { kind: 'files'; archive: number; manifest: number };

export interface ArchiveProgress {
  phase: 'scanning' | 'archiving';
  files: number;
  bytes: number;
  archiveBytes: number;
  errors: number;
  path: string;
  filesTotal?: number;
  bytesTotal?: number;
}
export interface SpooledPart {
  number: number;
  bytes: number;
  sha256: string;
}
export type FromWorker =
  | { type: 'progress'; progress: ArchiveProgress }
  /** A whole part lies in the spool. `last` is only known of the one that is told when all is done. */
  | { type: 'part'; part: SpooledPart; last: boolean }
  | { type: 'done'; archived: Archived }
  | Failed;
export interface Failed {
  type: 'failed';
  code: string | null;
  errno: string | null;
  message: string;
}
export type ToWorker = { type: 'room' } | { type: 'abort' };

export const partFile = (number: number): string => `archive.${String(number).padStart(5, '0')}`;
export const MANIFEST_FILE = 'manifest';
