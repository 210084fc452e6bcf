import type { Statement } from './statements.ts';
import type { StorageKind } from './storage.ts';

/** Rows by key, updates and inserts of many rows, as statements for either database. Table and column names are ours, never a
 *  caller's. The same table and columns give the same text, so it stays prepared. */

export type ColumnType = 'text' | 'bigint' | 'bytea';
export type Columns = Readonly<Record<string, ColumnType>>;
export type Row = Readonly<Record<string, unknown>>;

/** Rows whose `key` is among the values given; that fulfil `also`; with `lock` locked in the order of the key until the transaction ends. Their
 *  order is any. */
export const rowsByKey = (
  kind: StorageKind,
  of: { table: string; columns: readonly string[]; key: string; also?: string; lock?: boolean },
): ((values: readonly string[]) => Statement) => {
  const select = `select ${of.columns.join(', ')} from ${of.table} where ${of.also ? `${of.also} and ` : ''}${of.key}`;
  if (kind === 'sqlite') return (values) => ({ sql: `${select} = ?`, runs: values.map((value) => [value]) });
  const sql = `${select} = any($1::text[]) order by ${of.key}${of.lock ? ' for update' : ''}`;
  return (values) => ({ sql, runs: [[values]] });
};

export interface RowChange {
  id: string;
  before: Row;
  after: Row;
}

/** Updates of rows by `id`: one statement for each set of columns that changed together. Only those are written, which spares
 *  the indexes on the others. */
export const rowUpdates = (
  kind: StorageKind,
  table: string,
  columns: Columns,
): ((changes: readonly RowChange[]) => Statement[]) => {
  const all = Object.keys(columns);
  const texts = new Map<string, string>();
  const textOf = (key: string, names: readonly string[]): string => {
    const known = texts.get(key);
    if (known) return known;
    const made =
      kind === 'sqlite'
        ? `update ${table} set ${names.map((name) => `${name} = ?`).join(', ')} where id = ?`
        : `update ${table} set ${names.map((name) => `${name} = j.${name}`).join(', ')}
           from unnest(${parametersOf(columns, names)}, $${names.length + 1}::text[]) as j(${names.join(', ')}, id)
           where ${table}.id = j.id`;
    texts.set(key, made);
    return made;
  };
  return (changes) => {
    const sets = new Map<string, RowChange[]>();
    for (const change of changes) {
      const { before, after } = change;
      let key = '';
      for (const name of all) if (before[name] !== after[name]) key = key === '' ? name : `${key},${name}`;
      if (key === '') continue;
      const set = sets.get(key);
      if (set) set.push(change);
      else sets.set(key, [change]);
    }
    return [...sets].map(([key, set]) => {
      const names = key.split(',');
      const rows = set.map(({ id, after }) => [...names.map((name) => after[name]), id]);
      return { sql: textOf(key, names), runs: kind === 'sqlite' ? rows : [columnsOf(rows, names.length + 1)] };
    });
  };
};

/** @param tail what follows the rows, e.g. `on conflict do nothing` */
export const rowInserts = (
  kind: StorageKind,
  table: string,
  columns: Columns,
  tail = '',
): ((rows: readonly Row[]) => Statement) => {
  const names = Object.keys(columns);
  const into = `insert into ${table} (${names.join(', ')})`;
  const sql =
    kind === 'sqlite'
      ? `${into} values (${names.map(() => '?').join(', ')}) ${tail}`
      : `${into} select * from unnest(${parametersOf(columns, names)}) ${tail}`;
  return (rows) => {
    const lists = rows.map((row) => names.map((name) => row[name]));
    return { sql, runs: kind === 'sqlite' ? lists : [columnsOf(lists, names.length)] };
  };
};

const parametersOf = (columns: Columns, names: readonly string[]): string =>
  names.map((name, at) => `$${at + 1}::${columns[name]}[]`).join(', ');

const columnsOf = (rows: readonly (readonly unknown[])[], width: number): unknown[][] =>
  Array.from({ length: width }, (_, at) => rows.map((row) => row[at]));
