import type { RunState, RunTrigger } from '@aegis/protocol/backups/run';

/** Rows of the backups domain. Times are milliseconds since 1970, booleans 0 and 1, ids UUIDv7 text. */
export interface BackupsTables {
  /** A deleted one's row stays, for the runs that name it; its name is free then. */
  backups_configs: {
    id: string;
    /** Unique among those that are not deleted. */
    name: string;
    revision: number;
    mode: 'agent' | 'server';
    /** Where its next run goes. */
    destination_id: string;
    created_at: number;
    created_by: string;
    updated_at: number;
    updated_by: string;
    deleted_at: number | null;
    /** JSON array: names and selectors. */
    targets: string;
    /** JSON PresentConfig: what nodes are told. Their generations grow when, and only when, this text changes. */
    body: string;
    /** JSON BackupSpec. */
    spec: string;
  };
  /** Places that a configuration has or had. A run stays where it was written when its configuration moves on. */
  backups_destinations: {
    id: string;
    config_id: string;
    created_at: number;
    access_key_id: string | null;
    /** Encrypted, see credentials.ts. Null: the server's own are used. */
    credentials: string | null;
    /** JSON Destination. */
    destination: string;
    /** JSON, as BackupConfig shows it. Null until it was probed. */
    probe: string | null;
  };
  /** Desired state: one row per node and configuration. It stays after an unassignment, so that the generation never starts anew. */
  backups_assignments: {
    node_uid: string;
    config_id: string;
    node_name: string;
    generation: number;
    /** 0 for a tombstone. */
    present: number;
    /** Of the configuration's body, 0 for a tombstone. */
    bytes: number;
    assigned_at: number;
    assigned_by: string;
    /** Of the directive: a fresh one is issued when a node asks a day later. */
    directive_id: string;
    issued_at: number;
    /** 1 for a tombstone that the node has reported to hold. */
    confirmed: number;
  };
  /** What a node last said of a configuration. */
  backups_reports: {
    node_uid: string;
    config_id: string;
    generation: number;
    reported_at: number;
    next_run_at: number | null;
    /** JSON RunReason. */
    refusal: string | null;
  };
  backups_runs: {
    /** Made by the node. */
    id: string;
    config_id: string;
    config_name: string;
    /** Null for a run of the server's own files. */
    node_uid: string | null;
    node_name: string;
    node_key: string | null;
    generation: number;
    cause: RunTrigger;
    scheduled_at: number | null;
    state: RunState;
    /** The one that may write; the objects lie below its prefix. */
    attempt: number;
    started_at: number;
    attempt_started_at: number;
    /** The node's last word of it. */
    heard_at: number;
    /** Since when the node has been there without a word of this run; see loss-loop.ts. */
    silent_since: number | null;
    /** Nothing is signed for it any more from then on. */
    deadline_at: number;
    finished_at: number | null;
    cancelled_at: number | null;
    cancelled_by: string | null;
    archive_bytes: number;
    uploaded_bytes: number;
    encrypted: number;
    destination_id: string;
    /** Of its current attempt; ends with a slash. */
    prefix: string;
    max_bytes: number;
    locked_until: number | null;
    removed_at: number | null;
    /** Lines in its log. */
    logged: number;
    /** Hexadecimal, of the end as it was reported. */
    end_sha256: string | null;
    /** JSON array. */
    tags: string;
    /** JSON RunProgress, RunTotals, RunReason, the run's last verification, FileError[], Envelope. */
    progress: string | null;
    totals: string | null;
    reason: string | null;
    verified: string | null;
    errors: string;
    statement: string | null;
  };
  /** Multipart uploads of a run's objects. */
  backups_uploads: {
    run_id: string;
    attempt: number;
    object: 'archive' | 'manifest' | 'statement';
    upload_id: string;
    key: string;
    opened_at: number;
    /** Completed; the two below are set then. */
    closed_at: number | null;
    bytes: number | null;
    sha256: string | null;
    /** Aborted, or found to be gone. */
    aborted_at: number | null;
  };
  /** Other nodes that may read a run's objects for a while. */
  backups_grants: {
    run_id: string;
    node_uid: string;
    expires_at: number;
    granted_at: number;
    granted_by: string;
  };
  /** Lines of runs, and of nodes outside of any run. */
  backups_log: {
    /** Of what a line says, so that one that is sent twice is stored once. */
    id: string;
    /** UUIDv7: the order in which they came. */
    came: string;
    node_uid: string | null;
    run_id: string | null;
    /** By the node's clock. */
    at: number;
    level: 'debug' | 'info' | 'warning' | 'error';
    message: string;
    /** JSON object. */
    metadata: string | null;
  };
  /** What was refused to a node that asked for what it may not. The newest of each node are kept. */
  backups_audit: {
    id: string;
    at: number;
    node_uid: string;
    run_id: string | null;
    /** `sign`, `upload`, `end`, … */
    action: string;
    reason: string;
    /** JSON object: what was asked for. */
    asked: string;
  };
  /** Runs that are removed: no one is to restore them any more (`removed_at` is set with this row), and their objects go. */
  backups_removals: {
    run_id: string;
    node_uid: string | null;
    /** Who can reach them: the server at S3, or `own` in a folder of the server's; a node in a folder of its own. */
    remover: 'server' | 'own' | 'node';
    decided_at: number;
    /** Not before: it was refused, or failed. */
    next_at: number;
    tries: number;
    /** The run in the answer to whose end the node was told; asked for again, that end is answered so again. */
    told_in: string | null;
    done_at: number | null;
    reason: string;
    error: string | null;
  };
  /** What was told to be wrong, and not yet to be well again. */
  backups_incidents: {
    config_id: string;
    /** '' for the server's own files. */
    node_uid: string;
    kind: 'failure' | 'absence';
    opened_at: number;
  };
  /** Alerts that have not arrived yet, one row for each target. */
  backups_alerts: {
    /** UUIDv7. */
    id: string;
    made_at: number;
    next_at: number;
    tries: number;
    /** An address, or `command`. */
    target: string;
    /** JSON, as it is sent. */
    body: string;
    error: string | null;
  };
}

export type ConfigRow = BackupsTables['backups_configs'];
export type DestinationRow = BackupsTables['backups_destinations'];
export type AssignmentRow = BackupsTables['backups_assignments'];
export type ReportRow = BackupsTables['backups_reports'];
export type RunRow = BackupsTables['backups_runs'];
export type UploadRow = BackupsTables['backups_uploads'];
export type LogRow = BackupsTables['backups_log'];
export type AuditRow = BackupsTables['backups_audit'];
export type RemovalRow = BackupsTables['backups_removals'];
export type IncidentRow = BackupsTables['backups_incidents'];
export type AlertRow = BackupsTables['backups_alerts'];
