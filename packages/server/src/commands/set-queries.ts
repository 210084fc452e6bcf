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
  rows: readonly unknown[],
): RawBuilder<unknown> => {
  const names = Object.keys(columns);
  const json = JSON.stringify(rows);
  if (kind === 'postgres') {
    const typed = names.map((name) => `${name} ${columns[name]}`).join(', ');
    return sql`json_to_recordset(${json}::json) as ${sql.raw(`${alias}(${typed})`)}`;
  }
  const picked = names.map((name) => `value->>'${name}' as ${name}`).join(', ');
  return sql`(select ${sql.raw(picked)} from json_each(${json})) as ${sql.raw(alias)}`;
};

/** `column in (values)` with one parameter. */
export const isIn = (kind: Kind, column: string, values: readonly string[]): RawBuilder<boolean> =>
  kind === 'postgres'
    ? sql`${sql.ref(column)} = any(${values}::text[])`
    : sql`${sql.ref(column)} in (select value from json_each(${JSON.stringify(values)}))`;

/** `update table set each column from rows`, matched by `key`. */
export const updateRows = (
  kind: Kind,
  table: string,
  key: string,
  columns: Readonly<Record<string, ColumnType>>,
  rows: readonly Readonly<Record<string, unknown>>[],
): RawBuilder<unknown> => {
  const sets = Object.keys(columns).map((name) => `${name} = j.${name}`);
  const all = { [key]: 'text' as const, ...columns };
  const slim = rows.map((row) => Object.fromEntries(Object.keys(all).map((name) => [name, row[name] ?? null])));
  return sql`update ${sql.raw(table)} set ${sql.raw(sets.join(', '))} from ${jsonRows(kind, 'j', all, slim)}
    where ${sql.raw(`${table}.${key} = j.${key}`)}`;
};
