import type { Statement } from '../platform/storage/statements.ts';
import type { StorageKind } from '../platform/storage/storage.ts';
import type { EventRow } from './tables.ts';

/** Inserts of events, which thousands of reports a second bring along: SQLite takes several rows with one statement and ids that this process
 *  counts (it is the only one that writes them), PostgreSQL whole columns, each as one text. */

export type NewRow = Omit<EventRow, 'id'>;
export interface EventInserts {
  statements(rows: readonly NewRow[]): Statement[];
  /** Of SQLite: the last id that is taken. */
  takenUpTo(id: number): void;
}

export const eventInserts = (kind: StorageKind): EventInserts =>
  kind === 'sqlite' ? countedInserts() : { statements: joinedInserts, takenUpTo: () => undefined };

const INTO = 'insert into events';
const AT_ONCE = 16;
const rowsText = (count: number): string =>
  `${INTO} (id, at, type, node_uid, node_name, data) values ${Array(count).fill('(?, ?, ?, ?, ?, ?)').join(', ')}`;
const [ONE, MANY] = [rowsText(1), rowsText(AT_ONCE)];

const countedInserts = (): EventInserts => {
  let last: number | null = null;
  return {
    takenUpTo: (id) => {
      last = id;
    },
    statements: (rows) => {
      let id = last;
      if (id === null) throw new RangeError('events are not started: nobody knows the last id');
      const valuesOf = ({ at, type, node_uid, node_name, data }: NewRow): unknown[] => {
        id = (id ?? 0) + 1;
        return [id, at, type, node_uid, node_name, data];
      };
      const many: unknown[][] = [];
      let from = 0;
      for (; from + AT_ONCE <= rows.length; from += AT_ONCE)
        many.push(rows.slice(from, from + AT_ONCE).flatMap(valuesOf));
      const single = rows.slice(from).map(valuesOf);
      last = id;
      return [
        ...(many.length > 0 ? [{ sql: MANY, runs: many }] : []),
        ...(single.length > 0 ? [{ sql: ONE, runs: single }] : []),
      ];
    },
  };
};

/** Between two values of a column; none has it: JSON escapes it, and names have no control characters. */
const SEPARATOR = '\u001e';
const column = (at: number): string => `string_to_array($${at}::text, chr(30))`;
const JOINED = `${INTO} (at, type, node_uid, node_name, data)
  select j.at::bigint, j.type, nullif(j.uid, ''), nullif(j.name, ''), j.data
  from unnest(${column(1)}, ${column(2)}, ${column(3)}, ${column(4)}, ${column(5)}) as j(at, type, uid, name, data)`;

const joinedInserts = (rows: readonly NewRow[]): Statement[] => {
  const texts = ['', '', '', '', ''];
  let separator = '';
  for (const { at, type, node_uid, node_name, data } of rows) {
    texts[0] += `${separator}${at}`;
    texts[1] += `${separator}${type}`;
    texts[2] += `${separator}${node_uid ?? ''}`;
    texts[3] += `${separator}${node_name ?? ''}`;
    texts[4] += `${separator}${data}`;
    separator = SEPARATOR;
  }
  return [{ sql: JOINED, runs: [texts] }];
};
