/** What a run says of itself while it goes: counted always, told at intervals. */

export interface Progress {
  phase: 'scanning' | 'archiving';
  files: number;
  directories: number;
  /** Of the files, as read. */
  bytes: number;
  archiveBytes: number;
  errors: number;
  /** Relative to `/`; what is not UTF-8 replaced. */
  path: string;
  /** Estimates, where there is one. */
  filesTotal?: number;
  bytesTotal?: number;
}

export interface Counts {
  files: number;
  directories: number;
  others: number;
  bytes: number;
  archiveBytes: number;
  errors: number;
}

export interface RunProgress {
  readonly counts: Counts;
  /** To be called often: it looks at the clock, and tells when it is time. */
  tick(path: Buffer): void;
  archiving(estimate: { files: number; bytes: number } | undefined): void;
}

export interface ProgressOptions {
  onProgress: ((progress: Progress) => void) | undefined;
  progressMs: number;
  clock: { now(): number };
}

export const runProgress = ({ onProgress, progressMs, clock }: ProgressOptions): RunProgress => {
  const counts: Counts = { files: 0, directories: 0, others: 0, bytes: 0, archiveBytes: 0, errors: 0 };
  let phase: Progress['phase'] = 'scanning';
  let totals: Pick<Progress, 'filesTotal' | 'bytesTotal'> = {};
  let next = clock.now() + progressMs;
  return {
    counts,
    tick: (path) => {
      if (!onProgress || clock.now() < next) return;
      next = clock.now() + progressMs;
      const { others: _notTold, ...told } = counts;
      onProgress({ phase, ...told, path: path.toString('utf8'), ...totals });
    },
    archiving: (estimate) => {
      phase = 'archiving';
      Object.assign(counts, { files: 0, directories: 0, others: 0, bytes: 0 });
      totals = estimate ? { filesTotal: estimate.files, bytesTotal: estimate.bytes } : {};
    },
  };
};
