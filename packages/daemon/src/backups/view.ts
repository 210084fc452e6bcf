import type { FinalState, RunProgress, RunTrigger } from '@aegis/protocol/backups/run';

/** What `aegis daemon status` and the control socket show of backups. */

export interface BackupView {
  config_id: string;
  name: string;
  generation: number;
  paused: boolean;
  /** The cron expression; null for one that runs on request alone. */
  schedule: string | null;
  timezone: string | null;
  next_run_at: string | null;
  running: { run_id: string; trigger: RunTrigger; attempt: number; progress: RunProgress | null } | null;
  last: {
    run_id: string;
    state: FinalState;
    finished_at: string;
    archive_bytes: number;
    errors: number;
    reason: { code: string; message: string } | null;
    /** The server has not answered for it yet. */
    waiting: boolean;
  } | null;
  /** Why a newer generation was not taken. */
  refusal: { generation: number; code: string; message: string } | null;
}

/** The small part of the daemon's status. */
export interface BackupsStatus {
  configs: number;
  running: number;
  queued: number;
  /** Runs whose end the server does not know yet. */
  unreported: number;
  /** Configurations whose last run failed. */
  failed: string[];
}
