import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { commandStateOf, type ExecutionState, isFinalCommand } from '@aegis/protocol/commands/state';
import Database from 'better-sqlite3';

/** Looks into a server's SQLite file from outside, while the server runs or not. */

const open = (dataDir: string) => new Database(join(dataDir, 'aegis.db'), { readonly: true });
const named = (db: Database.Database): string[] =>
  db.prepare<[], string>("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").pluck().all();

/** What is in each table, as a digest per row, to compare before and after. Signs of life and the audit are left out: to be heard
 *  of and written down are the traces that a refused request may leave. */
export const dump = (dataDir: string): Record<string, string[]> => {
  const db = open(dataDir);
  try {
    return Object.fromEntries(
      named(db)
        .filter((table) => !table.startsWith('access_audit') && !SIGNS_OF_LIFE.includes(table))
        .map((table) => {
          const all = db.prepare(`SELECT * FROM "${table}"`).all() as Record<string, unknown>[];
          const rows = table === 'events' ? all.filter(({ type }) => !PRESENCE.includes(String(type))) : all;
          return [table, rows.map(({ last_seen: _, ...row }) => digest(row)).sort()];
        }),
    );
  } finally {
    db.close();
  }
};
/** The events' own record of who is there, and the marks by which they are counted. */
const SIGNS_OF_LIFE = ['agent_connections', 'events_presence', 'events_marks'];
const PRESENCE = ['node.connected', 'node.carrier', 'node.disconnected'];
const digest = (row: Record<string, unknown>): string =>
  createHash('sha256')
    .update(JSON.stringify(row, (_, value: unknown) => (Buffer.isBuffer(value) ? value.toString('base64') : value)))
    .digest('hex')
    .slice(0, 16);

/** What contradicts itself in a server's database; empty when nothing does. */
export const faultsIn = (dataDir: string): string[] => {
  const db = open(dataDir);
  try {
    const faults = [
      ...(db.pragma('integrity_check') as { integrity_check: string }[])
        .map((row) => row.integrity_check)
        .filter((text) => text !== 'ok'),
      ...(db.pragma('foreign_key_check') as unknown[]).map((row) => `foreign key ${JSON.stringify(row)}`),
    ];
    return [...faults, ...wrongRows(db), ...wrongCommands(db)];
  } finally {
    db.close();
  }
};

/** Each query answers the rows that must not be. */
const MUST_BE_EMPTY: Readonly<Record<string, string>> = {
  'a queue depth that is not its rows': `
    SELECT node_uid FROM commands_queues AS q WHERE queued <>
      (SELECT count(*) FROM commands_executions AS e WHERE e.node_uid = q.node_uid AND e.state = 'queued')`,
  'queued executions without a queue': `
    SELECT DISTINCT node_uid FROM commands_executions WHERE state = 'queued' AND node_uid NOT IN (SELECT node_uid FROM commands_queues)`,
  'an execution without its command':
    'SELECT id FROM commands_executions WHERE command_id NOT IN (SELECT id FROM commands)',
  'an execution without its node': 'SELECT id FROM commands_executions WHERE node_uid NOT IN (SELECT uid FROM nodes)',
  'output without its execution':
    'SELECT DISTINCT execution_id FROM commands_output WHERE execution_id NOT IN (SELECT id FROM commands_executions)',
  'attempts of which not exactly one is the newest': `
    SELECT command_id, node_uid FROM commands_executions GROUP BY command_id, node_uid
    HAVING sum(newest) <> 1 OR max(attempt) <> count(*) OR max(CASE newest WHEN 1 THEN attempt END) <> max(attempt)`,
  'output that is not contiguous': `
    SELECT execution_id, stream FROM (
      SELECT *, coalesce(lag(start + length) OVER (PARTITION BY execution_id, stream ORDER BY start), 0) AS wanted FROM commands_output)
    WHERE start <> wanted OR length <= 0 OR (bytes IS NULL) <> (gap_reason IS NOT NULL) OR length(bytes) <> length`,
  'offsets that are not the stored output': `
    SELECT e.id FROM commands_executions AS e LEFT JOIN (
      SELECT execution_id,
        sum(CASE stream WHEN 1 THEN length ELSE 0 END) AS out, sum(CASE WHEN stream = 1 AND bytes IS NULL THEN length ELSE 0 END) AS out_gap,
        sum(CASE stream WHEN 2 THEN length ELSE 0 END) AS err, sum(CASE WHEN stream = 2 AND bytes IS NULL THEN length ELSE 0 END) AS err_gap
      FROM commands_output GROUP BY execution_id) AS o ON o.execution_id = e.id
    WHERE stdout_next <> coalesce(out, 0) OR stdout_missing <> coalesce(out_gap, 0)
       OR stderr_next <> coalesce(err, 0) OR stderr_missing <> coalesce(err_gap, 0)`,
  'more output than the final report said': `
    SELECT id FROM commands_executions WHERE stdout_next > stdout_bytes OR stderr_next > stderr_bytes`,
  'an end without its time, or a time without its end': `
    SELECT id FROM commands_executions WHERE (finished_at IS NULL) <> (state IN ('queued', 'delivered', 'running'))`,
  'presumed, yet not ended or never offered': `
    SELECT id FROM commands_executions WHERE presumed = 1 AND (state NOT IN ('expired', 'cancelled', 'lost')
      OR (offered_at IS NULL AND delivered_at IS NULL))`,
  'two living nodes of one name or key': `
    SELECT name FROM nodes WHERE state <> 'retired' GROUP BY name HAVING count(*) > 1
    UNION ALL SELECT key_id FROM nodes WHERE state <> 'retired' AND key_id IS NOT NULL GROUP BY key_id HAVING count(*) > 1`,
  'a node whose artifacts are not its rows': `
    SELECT node_uid FROM artifacts_desired AS d WHERE (present, bytes) <> (
      SELECT count(*), coalesce(sum(manifest_bytes + length(CAST(a.constants AS BLOB))), 0) FROM artifacts_assignments AS a JOIN artifacts ON artifacts.id = a.artifact_id
      WHERE a.node_uid = d.node_uid AND a.present = 1)
    UNION ALL SELECT node_uid FROM artifacts_assignments WHERE node_uid NOT IN (SELECT node_uid FROM artifacts_desired)`,
  'an artifact that is assigned and deleted': `
    SELECT a.artifact_id FROM artifacts_assignments AS a LEFT JOIN artifacts ON artifacts.id = a.artifact_id
    WHERE artifacts.id IS NULL OR (a.present = 1 AND artifacts.deleted_at IS NOT NULL)`,
  'desired state or reports of a node that is not there': `
    SELECT node_uid FROM (SELECT node_uid FROM artifacts_desired UNION SELECT node_uid FROM artifacts_reports
      UNION SELECT node_uid FROM artifacts_kernels) WHERE node_uid NOT IN (SELECT uid FROM nodes WHERE state <> 'retired')`,
  'a confirmed wish, or a report of what was never wished': `
    SELECT node_uid FROM artifacts_assignments WHERE confirmed = 1 AND present = 1
    UNION ALL SELECT r.node_uid FROM artifacts_reports AS r LEFT JOIN artifacts_assignments AS a
      ON a.node_uid = r.node_uid AND a.name = r.name WHERE a.name IS NULL OR r.generation > a.generation`,
  'a backup run that is over without its time, or under way with one': `
    SELECT id FROM backups_runs WHERE (finished_at IS NULL) <> (state = 'running')`,
  'a good backup without its proof, or a bad one without its reason': `
    SELECT id FROM backups_runs WHERE CASE
      WHEN state IN ('completed', 'completed_with_errors') THEN
        archive_bytes = 0 OR totals IS NULL OR (cause <> 'agent' AND (statement IS NULL OR end_sha256 IS NULL))
      WHEN state IN ('failed', 'lost') THEN reason IS NULL
      ELSE 0 END`,
  'an upload of no run, or of an attempt that was never begun': `
    SELECT u.upload_id FROM backups_uploads AS u LEFT JOIN backups_runs AS r ON r.id = u.run_id
    WHERE r.id IS NULL OR u.attempt > r.attempt`,
  'a confirmed wish for a backup, or a report of what was never wished': `
    SELECT node_uid FROM backups_assignments WHERE confirmed = 1 AND present = 1
    UNION ALL SELECT r.node_uid FROM backups_reports AS r LEFT JOIN backups_assignments AS a
      ON a.node_uid = r.node_uid AND a.config_id = r.config_id WHERE a.config_id IS NULL OR r.generation > a.generation`,
  'a join token used more often than it may': 'SELECT id FROM access_join_tokens WHERE used > uses',
};

const wrongRows = (db: Database.Database): string[] =>
  Object.entries(MUST_BE_EMPTY).flatMap(([what, query]) =>
    db
      .prepare(query)
      .all()
      .map((row) => `${what}: ${JSON.stringify(row)}`),
  );

/** A command's counts and state against its executions. */
const wrongCommands = (db: Database.Database): string[] => {
  const newest = db.prepare<[string], { state: ExecutionState; count: number }>(
    'SELECT state, count(*) AS count FROM commands_executions WHERE command_id = ? AND newest = 1 GROUP BY state',
  );
  const commands = db.prepare('SELECT id, state, result, completed_at FROM commands').all() as {
    id: string;
    state: Parameters<typeof isFinalCommand>[0];
    result: string;
    completed_at: number | null;
  }[];
  return commands.flatMap(({ id, state, result, completed_at }) => {
    const rows = newest.all(id);
    const counted = Object.fromEntries(rows.map((row) => [row.state, row.count]).sort());
    const told = Object.fromEntries(Object.entries(JSON.parse(result) as Record<string, number>).sort());
    const wanted = commandStateOf(rows.map((row) => row.state));
    return [
      ...(JSON.stringify(counted) === JSON.stringify(told)
        ? []
        : [`command ${id} counts ${result}, its rows ${JSON.stringify(counted)}`]),
      ...(state === wanted ? [] : [`command ${id} is ${state}, its executions say ${wanted}`]),
      ...((completed_at !== null) === isFinalCommand(state)
        ? []
        : [`command ${id} is ${state} and completed at ${completed_at}`]),
    ];
  });
};
