import type { PresentConfig } from '@aegis/protocol/backups/directive';
import type { FileError, RunEnd, RunObject, RunTotals, RunTrigger } from '@aegis/protocol/backups/run';
import type { Journal } from '../platform/journal/journal.ts';

/** The SQL of backups. Writes belong inside the journal's transaction, group or lazily. What stands here as JSON was checked when it
 *  came in; the journal is this node's own. No credential ever stands in it. */

export interface DesiredRow {
  configId: string;
  generation: number;
  present: boolean;
  /** The directive's body, as JSON: another one of the same generation is a conflict. */
  body: string;
  envelope: string;
  issuedAtMs: number;
  acceptedAtMs: number;
  /** Schedule times up to this one are over: they ran, were left out, or lie before the configuration. */
  scheduledUntilMs: number;
}

export interface Refusal {
  configId: string;
  generation: number;
  code: string;
  message: string;
  atMs: number;
}

/** `queued`: nothing was begun. `started`: an attempt is under way, or was when the daemon died. `archived`: all that will be uploaded
 *  lies in the spool or has been uploaded. `ended`: the server is to be told. `told`: kept as the last of its configuration. */
export type Stage = 'queued' | 'started' | 'archived' | 'ended' | 'told';

/** What a run was begun with. */
export interface RunStart {
  trigger: RunTrigger;
  scheduledAt: string | null;
  generation: number;
  body: PresentConfig;
}

/** How far it is, as far as a daemon that comes back needs it. */
export interface RunState {
  /** Attempts that failed, of which `retries.max` may. */
  failures: number;
  /** Of the time that the run may take, hooks and pauses included; while the daemon was away it does not count. */
  spentMs: number;
  prefix: string | null;
  conditionalWrites: boolean;
  uploads: Partial<Record<RunObject, string>>;
  archived: Archived | null;
}
export interface ObjectFacts {
  bytes: number;
  sha256: string;
}
export interface Archived {
  archive: ObjectFacts;
  manifest: ObjectFacts;
  totals: RunTotals;
  tarBytes: number;
  errors: FileError[];
}

export interface RunRow {
  id: string;
  configId: string;
  stage: Stage;
  attempt: number;
  createdAtMs: number;
  start: RunStart;
  state: RunState;
  ending: RunEnd | null;
  /** What retention removes from the destination, told by the server at the end of this run. */
  forget: { config_id: string; run_id: string }[];
}

export interface PartRow {
  object: 'archive' | 'manifest';
  number: number;
  bytes: number;
  sha256: string;
  /** Null until it is uploaded. */
  etag: string | null;
}

interface DesiredSql {
  config_id: string;
  generation: number;
  present: number;
  body: string;
  envelope: string;
  issued_at_ms: number;
  accepted_at_ms: number;
  scheduled_until_ms: number;
}
interface RunSql {
  id: string;
  config_id: string;
  stage: Stage;
  attempt: number;
  created_at_ms: number;
  start: string;
  state: string;
  ending: string | null;
  forget: string | null;
}

export type BackupsRepository = ReturnType<typeof backupsRepository>;

export const backupsRepository = ({ db }: Pick<Journal, 'db'>) => {
  const desired = db.prepare<[], DesiredSql>('SELECT * FROM desired_backups WHERE json_valid(body) ORDER BY config_id');
  const putDesired = db.prepare(
    `INSERT INTO desired_backups (config_id, generation, present, body, envelope, issued_at_ms, accepted_at_ms, scheduled_until_ms)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?)
     ON CONFLICT (config_id) DO UPDATE SET generation = excluded.generation, present = excluded.present, body = excluded.body,
       envelope = excluded.envelope, issued_at_ms = excluded.issued_at_ms, accepted_at_ms = excluded.accepted_at_ms,
       scheduled_until_ms = excluded.scheduled_until_ms`,
  );
  const setScheduled = db.prepare<[number, string]>(
    'UPDATE desired_backups SET scheduled_until_ms = ? WHERE config_id = ?',
  );
  const removeDesired = db.prepare<[string]>('DELETE FROM desired_backups WHERE config_id = ?');
  const refusals = db.prepare<
    [],
    { config_id: string; generation: number; code: string; message: string; at_ms: number }
  >('SELECT * FROM backup_refusals');
  const putRefusal = db.prepare<[string, number, string, string, number]>(
    `INSERT INTO backup_refusals (config_id, generation, code, message, at_ms) VALUES (?, ?, ?, ?, ?)
     ON CONFLICT (config_id) DO UPDATE SET generation = excluded.generation, code = excluded.code, message = excluded.message,
       at_ms = excluded.at_ms`,
  );
  const removeRefusal = db.prepare<[string]>('DELETE FROM backup_refusals WHERE config_id = ?');
  const RUN = `SELECT * FROM backup_runs WHERE json_valid(start) AND json_valid(state)`;
  const runs = db.prepare<[], RunSql>(`${RUN} ORDER BY id`);
  const addRun = db.prepare<[string, string, number, string, string]>(
    `INSERT INTO backup_runs (id, config_id, stage, attempt, created_at_ms, start, state) VALUES (?, ?, 'queued', 0, ?, ?, ?)`,
  );
  const putRun = db.prepare<[Stage, number, string, string, string]>(
    'UPDATE backup_runs SET stage = ?, attempt = ?, start = ?, state = ? WHERE id = ?',
  );
  const endRun = db.prepare<[number, string, string]>(
    "UPDATE backup_runs SET stage = 'ended', attempt = ?, ending = ? WHERE id = ?",
  );
  const reopenRun = db.prepare<[string, string]>(
    "UPDATE backup_runs SET stage = 'started', ending = NULL, state = ? WHERE id = ?",
  );
  const tellRun = db.prepare<[string | null, string]>("UPDATE backup_runs SET stage = 'told', forget = ? WHERE id = ?");
  const forgotten = db.prepare<[string]>('UPDATE backup_runs SET forget = NULL WHERE id = ?');
  const dropOlder = db.prepare<[string, string]>(
    "DELETE FROM backup_runs WHERE config_id = ? AND id < ? AND stage = 'told' AND forget IS NULL",
  );
  const dropOf = db.prepare<[string]>(
    "DELETE FROM backup_runs WHERE config_id = ? AND stage = 'told' AND forget IS NULL",
  );
  const parts = db.prepare<
    [string],
    { object: PartRow['object']; number: number; bytes: number; sha256: string; etag: string | null }
  >('SELECT object, number, bytes, sha256, etag FROM backup_parts WHERE run_id = ? ORDER BY object, number');
  const putPart = db.prepare<[string, string, number, number, string, string | null]>(
    `INSERT INTO backup_parts (run_id, object, number, bytes, sha256, etag) VALUES (?, ?, ?, ?, ?, ?)
     ON CONFLICT (run_id, object, number) DO UPDATE SET bytes = excluded.bytes, sha256 = excluded.sha256, etag = excluded.etag`,
  );
  const removeParts = db.prepare<[string]>('DELETE FROM backup_parts WHERE run_id = ?');

  return {
    desired: (): DesiredRow[] =>
      desired.all().map((row) => ({
        configId: row.config_id,
        generation: row.generation,
        present: row.present === 1,
        body: row.body,
        envelope: row.envelope,
        issuedAtMs: row.issued_at_ms,
        acceptedAtMs: row.accepted_at_ms,
        scheduledUntilMs: row.scheduled_until_ms,
      })),
    putDesired: (row: DesiredRow): void =>
      void putDesired.run(
        row.configId,
        row.generation,
        row.present ? 1 : 0,
        row.body,
        row.envelope,
        row.issuedAtMs,
        row.acceptedAtMs,
        row.scheduledUntilMs,
      ),
    setScheduledUntil: (configId: string, ms: number): void => void setScheduled.run(ms, configId),
    /** A tombstone that no directive can contradict any more. */
    removeDesired: (configId: string): void => {
      removeDesired.run(configId);
      removeRefusal.run(configId);
      dropOf.run(configId);
    },
    refusals: (): Refusal[] =>
      refusals.all().map(({ config_id: configId, generation, code, message, at_ms: atMs }) => ({
        configId,
        generation,
        code,
        message,
        atMs,
      })),
    putRefusal: ({ configId, generation, code, message, atMs }: Refusal): void =>
      void putRefusal.run(configId, generation, code, message, atMs),
    removeRefusal: (configId: string): void => void removeRefusal.run(configId),
    runs: (): RunRow[] => runs.all().map(runOf),
    addRun: (id: string, configId: string, createdAtMs: number, start: RunStart, state: RunState): void =>
      void addRun.run(id, configId, createdAtMs, JSON.stringify(start), JSON.stringify(state)),
    putRun: ({
      id,
      stage,
      attempt,
      start,
      state,
    }: Pick<RunRow, 'id' | 'stage' | 'attempt' | 'start' | 'state'>): void =>
      void putRun.run(stage, attempt, JSON.stringify(start), JSON.stringify(state), id),
    endRun: (id: string, attempt: number, ending: RunEnd): void => {
      endRun.run(attempt, JSON.stringify(ending), id);
      removeParts.run(id);
    },
    /** The server does not take its end: another attempt is to be made. */
    reopenRun: ({ id, state }: Pick<RunRow, 'id' | 'state'>): void => void reopenRun.run(JSON.stringify(state), id),
    /** The server knows how it ended; it stays as the last of its configuration. */
    tellRun: ({ id, configId }: Pick<RunRow, 'id' | 'configId'>, forget: RunRow['forget']): void => {
      tellRun.run(forget.length > 0 ? JSON.stringify(forget) : null, id);
      dropOlder.run(configId, id);
    },
    forgotten: (id: string): void => void forgotten.run(id),
    parts: (runId: string): PartRow[] => parts.all(runId),
    putPart: (runId: string, { object, number, bytes, sha256, etag }: PartRow): void =>
      void putPart.run(runId, object, number, bytes, sha256, etag),
    removeParts: (runId: string): void => void removeParts.run(runId),
  };
};

const runOf = (row: RunSql): RunRow => ({
  id: row.id,
  configId: row.config_id,
  stage: row.stage,
  attempt: row.attempt,
  createdAtMs: row.created_at_ms,
  start: JSON.parse(row.start) as RunStart,
  state: JSON.parse(row.state) as RunState,
  ending: row.ending === null ? null : (JSON.parse(row.ending) as RunEnd),
  forget: row.forget === null ? [] : (JSON.parse(row.forget) as RunRow['forget']),
});

const FLOOR = 'backups_floor_ms';

/** What the daemon that has nothing else to do with backups reads of them. */
export const backupsState = ({ db }: Pick<Journal, 'db'>) => ({
  /** A configuration that is not known here is refused when it was issued at or before this. */
  floorMs: (): number =>
    Number(
      db.prepare<[string], string>('SELECT value FROM state WHERE key = ?').pluck().get(FLOOR) ??
        Number.NEGATIVE_INFINITY,
    ),
  setFloorMs: (ms: number): void => {
    db.prepare<[string, string]>(
      'INSERT INTO state (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value',
    ).run(FLOOR, String(ms));
  },
  /** Whether there is anything to do or to tell. */
  busy: (): boolean =>
    db
      .prepare(
        `SELECT 1 FROM desired_backups WHERE present = 1 UNION ALL SELECT 1 FROM backup_refusals
         UNION ALL SELECT 1 FROM backup_runs WHERE stage <> 'told' OR forget IS NOT NULL LIMIT 1`,
      )
      .get() !== undefined,
});
export type BackupsState = ReturnType<typeof backupsState>;
