import type { StatusReport } from '@aegis/protocol/artifacts/status';
import type { Journal } from '../platform/journal/journal.ts';

/** The SQL of artifacts. Writes belong inside the journal's transaction, group or lazily. What stands here as JSON was checked when it
 *  came in; the journal is this node's own. A row that a bad disk made unreadable costs its own artifact, not the others. */

export interface DesiredRow {
  name: string;
  generation: number;
  present: boolean;
  /** The directive's body, as JSON: another one of the same generation is a conflict. */
  body: string;
  envelope: string;
  issuedAtMs: number;
  acceptedAtMs: number;
  /** Of a tombstone: nothing is left of the artifact here. */
  done: boolean;
}

/** What is told of one artifact: how it is, and a directive that was refused. The newest of each. */
export type ReportSlot = 'state' | 'refusal';
export interface ReportRow {
  name: string;
  slot: ReportSlot;
  /** Rises with each report of this node. */
  seq: number;
  /** Where it is posted: the artifact's id, or its name where only that is known. */
  address: string;
  report: StatusReport;
  waiting: boolean;
}

export interface AppliedRow {
  name: string;
  generation: number;
  /** JSON of a StoredDeployment. */
  deployment: string;
  appliedAtMs: number;
}

interface DesiredSql {
  name: string;
  generation: number;
  present: number;
  body: string;
  envelope: string;
  issued_at_ms: number;
  accepted_at_ms: number;
  done: number;
}
interface ReportSql {
  name: string;
  slot: ReportSlot;
  seq: number;
  address: string;
  report: string;
  waiting: number;
}

export type ArtifactsRepository = ReturnType<typeof artifactsRepository>;

export const artifactsRepository = ({ db }: Pick<Journal, 'db'>) => {
  const desired = db.prepare<
    [],
    DesiredSql
  >(`SELECT name, generation, present, CASE WHEN json_valid(body) THEN body ELSE '{}' END AS body, envelope, issued_at_ms, accepted_at_ms, done
     FROM desired_artifacts ORDER BY name`);
  const putDesired = db.prepare(
    `INSERT INTO desired_artifacts (name, generation, present, body, envelope, issued_at_ms, accepted_at_ms, done)
     VALUES (?, ?, ?, ?, ?, ?, ?, 0)
     ON CONFLICT (name) DO UPDATE SET generation = excluded.generation, present = excluded.present, body = excluded.body,
       envelope = excluded.envelope, issued_at_ms = excluded.issued_at_ms, accepted_at_ms = excluded.accepted_at_ms, done = 0`,
  );
  const setDone = db.prepare<[string, number]>(
    'UPDATE desired_artifacts SET done = 1 WHERE name = ? AND generation = ?',
  );
  const removeDesired = db.prepare<[string]>('DELETE FROM desired_artifacts WHERE name = ?');
  const removeReports = db.prepare<[string]>('DELETE FROM artifact_reports WHERE name = ?');
  const applied = db.prepare<[], { name: string; generation: number; deployment: string; applied_at_ms: number }>(
    "SELECT * FROM applied_artifacts WHERE CASE WHEN json_valid(deployment) THEN deployment ->> '$.body.name' = name END ORDER BY name",
  );
  const putApplied = db.prepare<[string, number, string, number]>(
    `INSERT INTO applied_artifacts (name, generation, deployment, applied_at_ms) VALUES (?, ?, ?, ?)
     ON CONFLICT (name) DO UPDATE SET generation = excluded.generation, deployment = excluded.deployment, applied_at_ms = excluded.applied_at_ms`,
  );
  const removeApplied = db.prepare<[string]>('DELETE FROM applied_artifacts WHERE name = ?');
  const reports = db.prepare<[], ReportSql>('SELECT * FROM artifact_reports WHERE json_valid(report) ORDER BY seq');
  const report = db.prepare<[string, ReportSlot], ReportSql>(
    'SELECT * FROM artifact_reports WHERE name = ? AND slot = ? AND json_valid(report)',
  );
  const waiting = db.prepare<[number], ReportSql>(
    'SELECT * FROM artifact_reports WHERE waiting = 1 AND json_valid(report) ORDER BY seq LIMIT ?',
  );
  const putReport = db.prepare<[string, ReportSlot, string, string, number]>(
    `INSERT INTO artifact_reports (name, slot, seq, address, report, waiting)
     VALUES (?, ?, (SELECT coalesce(max(seq), 0) + 1 FROM artifact_reports), ?, ?, ?)
     ON CONFLICT (name, slot) DO UPDATE SET seq = excluded.seq, address = excluded.address, report = excluded.report, waiting = excluded.waiting`,
  );
  const setSent = db.prepare<[string, ReportSlot, number]>(
    'UPDATE artifact_reports SET waiting = 0 WHERE name = ? AND slot = ? AND seq = ?',
  );
  const resend = db.prepare("UPDATE artifact_reports SET waiting = 1 WHERE slot = 'state'");
  const removeReport = db.prepare<[string, ReportSlot]>('DELETE FROM artifact_reports WHERE name = ? AND slot = ?');

  return {
    desired: (): DesiredRow[] =>
      desired.all().map((row) => ({
        name: row.name,
        generation: row.generation,
        present: row.present === 1,
        body: row.body,
        envelope: row.envelope,
        issuedAtMs: row.issued_at_ms,
        acceptedAtMs: row.accepted_at_ms,
        done: row.done === 1,
      })),
    putDesired: (row: Omit<DesiredRow, 'done'>): void =>
      void putDesired.run(
        row.name,
        row.generation,
        row.present ? 1 : 0,
        row.body,
        row.envelope,
        row.issuedAtMs,
        row.acceptedAtMs,
      ),
    setDone: (name: string, generation: number): void => void setDone.run(name, generation),
    /** A tombstone that no directive can contradict any more, with what was told of it. */
    forget: (name: string): void => {
      removeDesired.run(name);
      removeReports.run(name);
    },
    applied: (): AppliedRow[] =>
      applied.all().map(({ name, generation, deployment, applied_at_ms }) => ({
        name,
        generation,
        deployment,
        appliedAtMs: applied_at_ms,
      })),
    putApplied: ({ name, generation, deployment, appliedAtMs }: AppliedRow): void =>
      void putApplied.run(name, generation, deployment, appliedAtMs),
    removeApplied: (name: string): void => void removeApplied.run(name),
    reports: (): ReportRow[] => reports.all().map(reportOf),
    report: (name: string, slot: ReportSlot): ReportRow | null => {
      const row = report.get(name, slot);
      return row ? reportOf(row) : null;
    },
    /** The oldest that wait to be sent. */
    waitingReports: (most: number): ReportRow[] => waiting.all(most).map(reportOf),
    putReport: (slot: ReportSlot, address: string, report: StatusReport, waiting = true): void =>
      void putReport.run(report.name, slot, address, JSON.stringify(report), waiting ? 1 : 0),
    setSent: ({ name, slot, seq }: Pick<ReportRow, 'name' | 'slot' | 'seq'>): void => void setSent.run(name, slot, seq),
    /** Every state waits again: for a server that may have forgotten. */
    resend: (): void => void resend.run(),
    removeReport: (name: string, slot: ReportSlot): void => void removeReport.run(name, slot),
  };
};

const reportOf = (row: ReportSql): ReportRow => ({
  name: row.name,
  slot: row.slot,
  seq: row.seq,
  address: row.address,
  report: JSON.parse(row.report) as StatusReport,
  waiting: row.waiting === 1,
});

/** Numbers and marks of artifacts in the journal's `state`: read by the daemon that has nothing else to do with artifacts. */
export const artifactsState = ({ db }: Pick<Journal, 'db'>) => {
  const read = (key: string): string | undefined =>
    db.prepare<[string], string>('SELECT value FROM state WHERE key = ?').pluck().get(key);
  const write = (key: string, value: string): void => {
    db.prepare<[string, string]>(
      'INSERT INTO state (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value',
    ).run(key, value);
  };
  return {
    /** Desired state of an object that is not known here is refused when it was issued at or before this. */
    floorMs: (): number => Number(read('desired_floor_ms') ?? Number.NEGATIVE_INFINITY),
    setFloorMs: (ms: number): void => write('desired_floor_ms', String(ms)),
    /** Boot and release that the last kernel report was of. */
    kernelReported: (): string | undefined => read('kernel_report'),
    setKernelReported: (of: string): void => write('kernel_report', of),
    /** Whether there is anything to do or to tell. */
    busy: (): boolean =>
      db
        .prepare(
          'SELECT 1 FROM desired_artifacts WHERE present = 1 OR done = 0 UNION ALL SELECT 1 FROM artifact_reports WHERE waiting = 1 LIMIT 1',
        )
        .get() !== undefined,
  };
};
export type ArtifactsState = ReturnType<typeof artifactsState>;
