import type { Report } from '@aegis/protocol/commands/carrier';
import type { Delivery } from '@aegis/protocol/commands/submission';
import type { Journal } from '../platform/journal/journal.ts';
import type { ExecutionRow } from './execution.ts';

/** The SQL of commands. Writes belong inside the journal's transaction, group or lazily. */

export interface NewExecution extends Omit<ExecutionRow, 'seq' | 'begun' | 'cancelAsked'> {
  /** JSON of the RunBody; null for what is never to start. */
  body: string | null;
}

interface Row {
  seq: number;
  id: string;
  command_id: string;
  attempt: number;
  priority: number;
  delivery: Delivery;
  not_before_ms: number | null;
  expires_at_ms: number;
  output_limit_bytes: number;
  handed_boot: string | null;
  begun: number;
  cancel_asked: number;
  report: string | null;
}

export type CommandsRepository = ReturnType<typeof commandsRepository>;

/** `keptReports`: how many finished reports are remembered, for a server that was restored from a backup. */
export const commandsRepository = ({ journal, keptReports }: { journal: Journal; keptReports: number }) => {
  const { db } = journal;
  const insert = db.prepare(
    `INSERT INTO executions (id, command_id, attempt, priority, delivery, not_before_ms, expires_at_ms, output_limit_bytes, handed_boot, body, report)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
  );
  const columns =
    'seq, id, command_id, attempt, priority, delivery, not_before_ms, expires_at_ms, output_limit_bytes, handed_boot, begun, cancel_asked, report';
  const all = db.prepare<[], Row>(`SELECT ${columns} FROM executions ORDER BY seq`);
  const has = db.prepare<[string], number>('SELECT 1 FROM executions WHERE id = ?').pluck();
  const body = db.prepare<[string], string | null>('SELECT body FROM executions WHERE id = ?').pluck();
  const handed = db.prepare<[string, string]>('UPDATE executions SET handed_boot = ? WHERE id = ?');
  const begun = db.prepare<[string]>('UPDATE executions SET begun = 1 WHERE id = ?');
  const report = db.prepare<[string, string]>('UPDATE executions SET report = ?, body = NULL WHERE id = ?');
  const cancel = db.prepare<[string]>('UPDATE executions SET cancel_asked = 1 WHERE command_id = ? AND report IS NULL');
  const remove = db.prepare<[string]>('DELETE FROM executions WHERE id = ?');
  const keep = db.prepare<[string, string]>(
    'INSERT INTO finished (execution_id, report) VALUES (?, ?) ON CONFLICT (execution_id) DO UPDATE SET report = excluded.report',
  );
  const trim = db.prepare<[number | bigint]>('DELETE FROM finished WHERE seq <= ?');
  const kept = db.prepare<[string], string>('SELECT report FROM finished WHERE execution_id = ?').pluck();
  const addTombstone = db.prepare<[string, number]>(
    'INSERT INTO tombstones (command_id, expires_at_ms) VALUES (?, ?) ON CONFLICT (command_id) DO UPDATE SET expires_at_ms = max(expires_at_ms, excluded.expires_at_ms)',
  );
  const tombstone = db.prepare<[string], number>('SELECT 1 FROM tombstones WHERE command_id = ?').pluck();
  const oldTombstones = db.prepare<[number], number>('SELECT count(*) FROM tombstones WHERE expires_at_ms < ?').pluck();
  const pruneTombstones = db.prepare<[number]>('DELETE FROM tombstones WHERE expires_at_ms < ?');

  return {
    /** The row's seq, or null when the id is taken. */
    insert: (one: NewExecution): number | null => {
      const { changes, lastInsertRowid } = insert.run(
        one.id,
        one.commandId,
        one.attempt,
        one.priority,
        one.delivery,
        one.notBeforeMs,
        one.expiresAtMs,
        one.outputLimitBytes,
        one.handedBoot,
        one.body,
        one.report ? JSON.stringify(one.report) : null,
      );
      return changes === 1 ? Number(lastInsertRowid) : null;
    },
    all: (): ExecutionRow[] =>
      all.all().map((row) => ({
        seq: row.seq,
        id: row.id,
        commandId: row.command_id,
        attempt: row.attempt,
        priority: row.priority,
        delivery: row.delivery,
        notBeforeMs: row.not_before_ms,
        expiresAtMs: row.expires_at_ms,
        outputLimitBytes: row.output_limit_bytes,
        handedBoot: row.handed_boot,
        begun: row.begun === 1,
        cancelAsked: row.cancel_asked === 1,
        report: row.report === null ? null : (JSON.parse(row.report) as Report),
      })),
    has: (id: string): boolean => has.get(id) !== undefined,
    bodyOf: (id: string): unknown => JSON.parse(body.get(id) ?? 'null'),
    setHanded: (id: string, bootId: string): void => void handed.run(bootId, id),
    setBegun: (id: string): void => void begun.run(id),
    setReport: (id: string, final: Report): void => void report.run(JSON.stringify(final), id),
    setCancelAsked: (commandId: string): void => void cancel.run(commandId),
    /** The server has everything: the row goes, the report is kept for a while. */
    free: (id: string, final: Report): void => {
      remove.run(id);
      const { lastInsertRowid } = keep.run(id, JSON.stringify(final));
      trim.run(Number(lastInsertRowid) - keptReports);
    },
    keptReport: (executionId: string): Report | null => {
      const text = kept.get(executionId);
      return text === undefined ? null : (JSON.parse(text) as Report);
    },
    addTombstone: (commandId: string, expiresAtMs: number): void => void addTombstone.run(commandId, expiresAtMs),
    hasTombstone: (commandId: string): boolean => tombstone.get(commandId) !== undefined,
    pruneTombstones: (nowMs: number): void => {
      if ((oldTombstones.get(nowMs) ?? 0) > 0)
        journal.transaction('tombstones-prune', () => pruneTombstones.run(nowMs));
    },
  };
};
