import { rowInserts, rowsByKey } from '../platform/storage/row-statements.ts';
import { together } from '../platform/storage/statements.ts';
import type { Storage, Tx } from '../tables.ts';

/** The SQL of what was told of nodes' presence. */

export type Carrier = 'ws' | 'poll';
export interface PresenceRow {
  node_uid: string;
  /** Null: it is not there. */
  carrier: Carrier | null;
  /** Of which connection; empty while it polls. */
  session: string;
}

const COLUMNS = { node_uid: 'text', carrier: 'text', session: 'text' } as const;
const QUIET_AT_ONCE = 1000;

export const presenceRepository = (storage: Storage) => {
  const { kind } = storage;
  const made = rowInserts(kind, 'events_presence', COLUMNS, 'on conflict do nothing');
  const stored = rowInserts(
    kind,
    'events_presence',
    COLUMNS,
    'on conflict (node_uid) do update set carrier = excluded.carrier, session = excluded.session',
  );
  const locked = rowsByKey(kind, {
    table: 'events_presence',
    columns: Object.keys(COLUMNS),
    key: 'node_uid',
    lock: true,
  });
  return {
    lock: async (tx: Tx, uids: readonly string[]): Promise<Map<string, PresenceRow>> => {
      const all = [...new Set(uids)].sort(); // one order of locking for all server processes
      const none = all.map((node_uid) => ({ node_uid, carrier: null, session: '' }));
      const [, rows = []] = await together(tx, [made(none), locked(all)]);
      return new Map((rows as PresenceRow[]).map((row) => [row.node_uid, row]));
    },
    store: async (tx: Tx, rows: readonly PresenceRow[]): Promise<void> => {
      if (rows.length > 0) await together(tx, [stored(rows.map((row) => ({ ...row })))]);
    },
    /** Those that were there and gave no sign of life since, as far as the database knows. */
    quietSince: (before: number): Promise<{ uid: string; name: string }[]> =>
      storage.read
        .selectFrom('events_presence')
        .innerJoin('nodes', 'nodes.uid', 'events_presence.node_uid')
        .select(['nodes.uid', 'nodes.name'])
        .where('events_presence.carrier', 'is not', null)
        .where((where) => where.or([where('nodes.last_seen', 'is', null), where('nodes.last_seen', '<', before)]))
        .limit(QUIET_AT_ONCE)
        .execute(),
    forget: async (tx: Tx, uid: string): Promise<void> => {
      await tx.deleteFrom('events_presence').where('node_uid', '=', uid).execute();
    },
  };
};
