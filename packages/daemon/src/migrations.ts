import type { Migration } from './platform/journal/journal.ts';

/** The journal's schema, step by step. Forward only and additive, so that the previous release can still read the file. */
export const migrations: readonly Migration[] = [
  {
    version: 1,
    name: 'executions, seen directives, tombstones and kept reports',
    sql: `
      CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

      CREATE TABLE seen (
        id BLOB NOT NULL,
        attempt INTEGER NOT NULL,
        issued_at_ms INTEGER NOT NULL,
        PRIMARY KEY (id, attempt)
      ) STRICT, WITHOUT ROWID;
      CREATE INDEX seen_issued ON seen (issued_at_ms);

      CREATE TABLE executions (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        command_id TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        delivery TEXT NOT NULL,
        not_before_ms INTEGER,
        expires_at_ms INTEGER NOT NULL,
        output_limit_bytes INTEGER NOT NULL,
        body TEXT,
        handed_boot TEXT,
        cancel_asked INTEGER NOT NULL DEFAULT 0,
        report TEXT
      ) STRICT;
      CREATE INDEX executions_command ON executions (command_id);

      CREATE TABLE tombstones (command_id TEXT PRIMARY KEY, expires_at_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;

      CREATE TABLE finished (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        execution_id TEXT NOT NULL UNIQUE,
        report TEXT NOT NULL
      ) STRICT;
    `,
  },
  {
    version: 2,
    name: 'executions that were begun',
    sql: `
      ALTER TABLE executions ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;
      UPDATE executions SET begun = 1 WHERE handed_boot IS NOT NULL;
    `,
  },
  {
    version: 3,
    name: 'desired artifacts, what runs of them, and reports about them',
    sql: `
      CREATE TABLE desired_artifacts (
        name TEXT PRIMARY KEY,
        generation INTEGER NOT NULL,
        present INTEGER NOT NULL,
        body TEXT NOT NULL,
        envelope TEXT NOT NULL,
        issued_at_ms INTEGER NOT NULL,
        accepted_at_ms INTEGER NOT NULL,
        done INTEGER NOT NULL DEFAULT 0
      ) STRICT;

      CREATE TABLE applied_artifacts (
        name TEXT PRIMARY KEY,
        generation INTEGER NOT NULL,
        deployment TEXT NOT NULL,
        applied_at_ms INTEGER NOT NULL
      ) STRICT;

      CREATE TABLE artifact_reports (
        name TEXT NOT NULL,
        slot TEXT NOT NULL,
        seq INTEGER NOT NULL,
        address TEXT NOT NULL,
        report TEXT NOT NULL,
        waiting INTEGER NOT NULL,
        PRIMARY KEY (name, slot)
      ) STRICT;
    `,
  },
  {
    version: 4,
    name: 'backup configurations, runs of them and what was uploaded of those',
    sql: `
      CREATE TABLE desired_backups (
        config_id TEXT PRIMARY KEY,
        generation INTEGER NOT NULL,
        present INTEGER NOT NULL,
        body TEXT NOT NULL,
        envelope TEXT NOT NULL,
        issued_at_ms INTEGER NOT NULL,
        accepted_at_ms INTEGER NOT NULL,
        scheduled_until_ms INTEGER NOT NULL
      ) STRICT;

      CREATE TABLE backup_refusals (
        config_id TEXT PRIMARY KEY,
        generation INTEGER NOT NULL,
        code TEXT NOT NULL,
        message TEXT NOT NULL,
        at_ms INTEGER NOT NULL
      ) STRICT;

      CREATE TABLE backup_runs (
        id TEXT PRIMARY KEY,
        config_id TEXT NOT NULL,
        stage TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        created_at_ms INTEGER NOT NULL,
        start TEXT NOT NULL,
        state TEXT NOT NULL,
        ending TEXT,
        forget TEXT
      ) STRICT;
      CREATE INDEX backup_runs_config ON backup_runs (config_id);

      CREATE TABLE backup_parts (
        run_id TEXT NOT NULL,
        object TEXT NOT NULL,
        number INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        etag TEXT,
        PRIMARY KEY (run_id, object, number)
      ) STRICT, WITHOUT ROWID;
    `,
  },
  {
    version: 5,
    name: 'messages that were taken, and what came of them',
    sql: `
      CREATE TABLE messages (
        id TEXT PRIMARY KEY,
        channel TEXT NOT NULL,
        keep_until_ms INTEGER NOT NULL,
        outcome TEXT
      ) STRICT;
      CREATE INDEX messages_kept ON messages (keep_until_ms);
    `,
  },
];
