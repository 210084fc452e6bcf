import { type RawBuilder, sql } from 'kysely';

/** Whole batches as one parameter: a JSON text becomes rows, so the statement is the same for one row and for ten thousand
 *  (and stays prepared), on both databases. */

type Kind = 'sqlite' | 'postgres';
export type ColumnType = 'text' | 'bigint';

/** `alias(columns)` for a FROM clause. Text in `rows` must be free of U+0000 and lone surrogates: see `storable`. */
export const jsonRows = (
  kind: Kind,
  alias: string,
  columns: Readonly<Record<string, ColumnType>>,
  rows: readonly Readonly<Record<string, unknown>>[],
): RawBuilder<unknown> => {
  const names = Object.keys(columns);
  if (kind === 'postgres') {
    const slim = rows.map((row) => Object.fromEntries(names.map((name) => [name, row[name]])));
    const typed = names.map((name) => `${name} ${columns[name]}`).join(', ');
    return sql`json_to_recordset(${JSON.stringify(slim)}::json) as ${sql.raw(`${alias}(${typed})`)}`;
  }
  // Arrays: SQLite finds the n-th element three times as fast as a key.
  const lists = JSON.stringify(rows.map((row) => names.map((name) => row[name])));
  const picked = names.map((name, at) => `value->>${at} as ${name}`).join(', ');
  return sql`(select ${sql.raw(picked)} from json_each(${lists})) as ${sql.raw(alias)}`;
};

/** `column in (values)` with one parameter. */
export const isIn = (kind: Kind, column: string, values: readonly string[]): RawBuilder<boolean> =>
  kind === 'postgres'
    ? sql`${sql.ref(column)} = any(${values}::text[])`
    : sql`${sql.ref(column)} in (select value from json_each(${JSON.stringify(values)}))`;

export interface RowChange {
  id: string;
  before: Readonly<Record<string, unknown>>;
  after: Readonly<Record<string, unknown>>;
}

/** Updates of rows by `id`: one for each set of columns that changed together. Only those are written, which spares the indexes
 *  on the others, and a value that is the same in all rows of a set is one parameter. */
export const updatesOf = (
  kind: Kind,
  table: string,
  columns: Readonly<Record<string, ColumnType>>,
  changes: readonly RowChange[],
): RawBuilder<unknown>[] => {
  const all = Object.keys(columns);
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
  return [...sets].map(([key, set]) => updateOf(kind, table, columns, key.split(','), set));
};

const updateOf = (
  kind: Kind,
  table: string,
  columns: Readonly<Record<string, ColumnType>>,
  names: readonly string[],
  changes: readonly RowChange[],
): RawBuilder<unknown> => {
  const first = changes[0]?.after ?? {};
  const varying = names.filter((name) => changes.some(({ after }) => after[name] !== first[name]));
  const constant = names.filter((name) => !varying.includes(name));
  const assignments = sql.join([
    ...constant.map((name) => sql`${sql.raw(name)} = cast(${first[name]} as ${sql.raw(columns[name] ?? 'text')})`),
    ...varying.map((name) => sql.raw(`${name} = j.${name}`)),
  ]);
  const target = sql.raw(table);
  if (varying.length === 0)
    return sql`update ${target} set ${assignments} where ${isIn(
      kind,
      'id',
      changes.map(({ id }) => id),
    )}`;
  const typed = Object.fromEntries(['id', ...varying].map((name) => [name, columns[name] ?? 'text'] as const));
  const rows = changes.map(({ id, after }) => ({ ...after, id }));
  return sql`update ${target} set ${assignments} from ${jsonRows(kind, 'j', typed, rows)}
    where ${sql.raw(`${table}.id = j.id`)}`;
};
