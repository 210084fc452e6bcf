import { errorCode } from '@aegis/native/system-error';
import { AegisError } from '@aegis/protocol/errors';
import type { EntryError } from '../manifest/lines.ts';
import type { RestoreAction, RestoreProgress, RestoreResult } from './backup.ts';

/** Counts of a restore or verification, its errors, and its progress for whoever watches. */

export interface TallyOptions {
  options: {
    onProgress?: (progress: RestoreProgress) => void;
    progressMs?: number;
    onEntry?: (action: RestoreAction, path: Buffer) => void;
    clock?: { now(): number };
  };
  entriesTotal: number;
  archiveBytes(): number;
}

const MOST_ERRORS = 1000;
const PROGRESS_MS = 500;
/** Entries between two looks at the clock. */
const LOOK_EVERY = 64;

export const tally = ({ options, entriesTotal, archiveBytes }: TallyOptions) => {
  const { onProgress, onEntry, progressMs = PROGRESS_MS, clock = performance } = options;
  const errors: EntryError[] = [];
  const counts = { restored: 0, skipped: 0, deleted: 0, bytes: 0, errorCount: 0 };
  let entries = 0;
  let told = clock.now();
  const note = (path: Buffer, code: string, message: string): void => {
    counts.errorCount += 1;
    if (errors.length < MOST_ERRORS) errors.push({ path, code, message });
  };
  return {
    bytes: (count: number): void => {
      counts.bytes += count;
    },
    done: (outcome: 'restored' | 'skipped', path: Buffer): void => {
      counts[outcome] += 1;
      onEntry?.(outcome, path);
    },
    deleted: (path: Buffer): void => {
      counts.deleted += 1;
      onEntry?.('deleted', path);
    },
    /** The entry is there, but not wholly as it was. */
    flaw: note,
    failed: (path: Buffer, error: unknown, sentence?: string): void => {
      const reason = error instanceof AegisError ? error.details.reason : errorCode(error);
      const message = sentence ?? (error instanceof Error ? error.message : 'unknown');
      note(path, typeof reason === 'string' ? reason : 'unknown', message);
    },
    /** Counts an entry; true now and then, when `tell` and a look at signals are due. */
    due: (): boolean => entries++ % LOOK_EVERY === 0,
    tell: (path: Buffer): void => {
      if (!onProgress || clock.now() - told < progressMs) return;
      told = clock.now();
      const { bytes, errorCount } = counts;
      onProgress({ entries, entriesTotal, bytes, archiveBytes: archiveBytes(), errors: errorCount, path });
    },
    result: (archiveVerified: boolean): RestoreResult => ({ ...counts, errors, archiveVerified }),
  };
};
