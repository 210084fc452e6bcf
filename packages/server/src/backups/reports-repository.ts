import { type ColumnType, rowInserts } from '../platform/storage/row-statements.ts';
import { type Statement, together } from '../platform/storage/statements.ts';
import type { Storage, Tx } from '../tables.ts';
import type { AssignmentRow, ReportRow } from './tables.ts';

/** The SQL of what nodes say of their configurations. */

const REPORT = {
  node_uid: 'text',
  config_id: 'text',
  generation: 'bigint',
  reported_at: 'bigint',
  next_run_at: 'bigint',
  refusal: 'text',
} as const satisfies Record<keyof ReportRow, ColumnType>;

export const reportsRepository = (storage: Storage) => {
  const { kind, read } = storage;
  const save = rowInserts(
    kind,
    'backups_reports',
    REPORT,
    `on conflict (node_uid, config_id) do update set generation = excluded.generation, reported_at = excluded.reported_at,
     next_run_at = excluded.next_run_at, refusal = excluded.refusal`,
  );
  const ofConfig = (configId: string, uids: readonly string[]): Statement => {
    const select = `select ${Object.keys(REPORT).join(', ')} from backups_reports where`;
    return kind === 'sqlite'
      ? { sql: `${select} node_uid = ? and config_id = ?`, runs: uids.map((uid) => [uid, configId]) }
      : { sql: `${select} node_uid = any($1::text[]) and config_id = $2`, runs: [[uids, configId]] };
  };
  return {
    store: async (tx: Tx, rows: readonly ReportRow[]): Promise<void> => {
      if (rows.length > 0) await together(tx, [save(rows)]);
    },
    confirm: async (tx: Tx, rows: readonly Pick<AssignmentRow, 'node_uid' | 'config_id' | 'generation'>[]) => {
      for (const row of rows)
        await tx
          .updateTable('backups_assignments')
          .set({ confirmed: 1 })
          .where('node_uid', '=', row.node_uid)
          .where('config_id', '=', row.config_id)
          .where('generation', '=', row.generation)
          .where('present', '=', 0)
          .execute();
    },
    ofConfig: async (configId: string, uids: readonly string[]): Promise<Map<string, ReportRow>> => {
      const [rows = []] = await together(read, [ofConfig(configId, uids)]);
      return new Map((rows as ReportRow[]).map((row) => [row.node_uid, row]));
    },
    write: storage.write,
  };
};
export type ReportsRepository = ReturnType<typeof reportsRepository>;
