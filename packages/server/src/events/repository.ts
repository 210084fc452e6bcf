import { sql } from 'kysely';
import { forUpdate } from '../platform/storage/for-update.ts';
import { type Statement, together } from '../platform/storage/statements.ts';
import type { Storage, Tx } from '../tables.ts';
import { eventInserts, type NewRow } from './insert-statements.ts';
import type { EventRow } from './tables.ts';

/** The SQL of events. Ids have to rise in the order in which readers can see the rows, or a reader that has gone past an id would never look
 *  at what is committed below it later. SQLite has one writer. On PostgreSQL each writer holds, from before it takes its first id until its
 *  commit, a shared advisory lock whose number is the last id at that time: what it takes is above. A reader looks first at the last id, then
 *  at these locks, then at the rows, and goes no further than the lowest it has seen: below that everything is there or never will be.
 *  No writer waits for another (docs/decisions/0019). */

export interface News {
  rows: EventRow[];
  /** Somebody writes at this moment: there may be more soon, of which no wake-up tells. */
  pending: boolean;
}

const ROW = 'id, at, type, node_uid, node_name, data';
/** In the upper twelve bits of the locks' numbers; ids take less than the other 52. */
const LOCK_MARK = 0x616;
const LOCK_BASE = String(BigInt(LOCK_MARK) << 52n);

const LAST_ID: Statement = { sql: 'select last_value as id from events_id_seq', runs: [[]] };
const LOWEST_LOCK: Statement = {
  sql: `select min(((classid::bigint & 1048575) << 32) | objid::bigint) as id from pg_locks
    where locktype = 'advisory' and mode = 'ShareLock' and objsubid = 1 and classid::bigint >> 20 = $1::bigint
      and database = (select oid from pg_database where datname = current_database())`,
  runs: [[LOCK_MARK]],
};

export const eventsRepository = (storage: Storage) => {
  const { kind, read } = storage;
  const made = eventInserts(kind);
  const lock: Statement[] =
    kind === 'sqlite'
      ? []
      : [
          {
            sql: 'select pg_advisory_xact_lock_shared($1::bigint | last_value) from events_id_seq',
            runs: [[LOCK_BASE]],
          },
        ];
  const parameter = (at: number) => (kind === 'sqlite' ? '?' : `$${at}::bigint`);
  const following: string = `select ${ROW} from events where id > ${parameter(1)} order by id limit ${parameter(2)}`;
  /** With the floor as of the same moment. */
  const page = `select f.removed_through, e.* from events_floor as f left join (
      select ${ROW} from events where id > ${parameter(1)} and id <= ${parameter(2)} order by id limit ${parameter(3)}
    ) as e on 1 = 1 order by e.id`;

  /** Everything up to it is committed or never will be. */
  const settled = async (): Promise<{ id: number; pending: boolean }> => {
    if (kind === 'sqlite') return { id: Number.MAX_SAFE_INTEGER, pending: false };
    return settledOf(await together(read, [LAST_ID, LOWEST_LOCK]));
  };
  const floor = async (): Promise<number> =>
    (await read.selectFrom('events_floor').select('removed_through').executeTakeFirstOrThrow()).removed_through;

  return {
    /** To be run in the transaction that makes the change, after everything that it locks: the order of ids is then the order of what
     *  happened to one thing. */
    inserts: (rows: readonly NewRow[]): Statement[] => (rows.length === 0 ? [] : [...lock, ...made.statements(rows)]),

    /** Ids go on beyond `least`: what a server that was restored from a backup tells has ids that nobody has seen. */
    startAt: (least: number): Promise<void> =>
      storage.alone('events.start', () =>
        storage.write('events.start', async (tx) => {
          if (kind === 'postgres') {
            await sql`select setval('events_id_seq', ${least}) from events_id_seq where last_value < ${least}`.execute(
              tx,
            );
            return;
          }
          const { newest } = await tx
            .selectFrom('events')
            .select(({ fn }) => fn.max<number | null>('id').as('newest'))
            .executeTakeFirstOrThrow();
          made.takenUpTo(Math.max(least, newest ?? 0, await lockFloor(tx)));
        }),
      ),

    /** What came after `after`, the oldest first. */
    news: async (after: number, limit: number): Promise<News> => {
      if (kind === 'sqlite') {
        const [rows = []] = await together(read, [{ sql: following, runs: [[after, limit]] }]);
        return { rows: rows as EventRow[], pending: false };
      }
      const [last, lowest, rows = []] = await together(read, [
        LAST_ID,
        LOWEST_LOCK,
        { sql: following, runs: [[after, limit]] },
      ]);
      const { id, pending } = settledOf([last, lowest]);
      return { rows: (rows as EventRow[]).filter((row) => row.id <= id), pending };
    },

    /** The newest that a reader may have been told. */
    newest: async (): Promise<number> => {
      const { id } = await settled();
      const row = await read
        .selectFrom('events')
        .select('id')
        .where('id', '<=', id)
        .orderBy('id', 'desc')
        .limit(1)
        .executeTakeFirst();
      return row?.id ?? (await floor());
    },

    /** From after `after` up to `last`, and up to where events were removed at that moment. */
    page: async (after: number, last: number, limit: number): Promise<{ rows: EventRow[]; removedThrough: number }> => {
      const [found = []] = await together(read, [{ sql: page, runs: [[after, last, limit]] }]);
      const rows = found as (EventRow & { removed_through: number })[];
      return { rows: rows.filter((row) => row.id !== null), removedThrough: rows[0]?.removed_through ?? 0 };
    },
    floor,
    has: async (id: number): Promise<boolean> =>
      (await read.selectFrom('events').select('id').where('id', '=', id).executeTakeFirst()) !== undefined,

    /** Notes how many there have been by now. @returns the newest mark that is old, or beyond `most` events ago; null where there is none */
    mark: (now: number, oldest: number, most: number): Promise<number | null> =>
      settled().then(({ id: last }) =>
        storage.write('events.mark', async (tx) => {
          await lockFloor(tx);
          const before = await tx
            .selectFrom('events_marks')
            .selectAll()
            .orderBy('id', 'desc')
            .limit(1)
            .executeTakeFirst();
          const { added, newest } = await tx
            .selectFrom('events')
            .select(({ fn }) => [fn.countAll<number>().as('added'), fn.max<number | null>('id').as('newest')])
            .where('id', '>', before?.id ?? 0)
            .where('id', '<=', last)
            .executeTakeFirstOrThrow();
          const total = (before?.total ?? 0) + added;
          if (newest !== null) await tx.insertInto('events_marks').values({ id: newest, at: now, total }).execute();
          const cut = await tx
            .selectFrom('events_marks')
            .select(({ fn }) => fn.max<number | null>('id').as('id'))
            .where((where) => where.or([where('at', '<', oldest), where('total', '<=', total - most)]))
            .executeTakeFirstOrThrow();
          return cut.id;
        }),
      ),
    /** Removes at most `limit` of those up to `cut`. @returns whether that was all */
    remove: (cut: number, limit: number): Promise<boolean> =>
      storage.write('events.remove', async (tx) => {
        const from = await lockFloor(tx);
        if (from >= cut) return true;
        const beyond = await tx
          .selectFrom('events')
          .select('id')
          .where('id', '>', from)
          .where('id', '<=', cut)
          .orderBy('id')
          .offset(limit - 1)
          .limit(1)
          .executeTakeFirst();
        const through = beyond?.id ?? cut;
        await tx.deleteFrom('events').where('id', '>', from).where('id', '<=', through).execute();
        await tx.updateTable('events_floor').set({ removed_through: through }).execute();
        // The newest mark stays: counting goes on from it.
        await tx.deleteFrom('events_marks').where('id', '<', through).execute();
        return through === cut;
      }),
  };

  async function lockFloor(tx: Tx): Promise<number> {
    const row = await forUpdate(storage, tx.selectFrom('events_floor').selectAll()).executeTakeFirstOrThrow();
    return row.removed_through;
  }
};
export type EventsRepository = ReturnType<typeof eventsRepository>;

const settledOf = ([last = [], lowest = []]: (unknown[] | undefined)[]): { id: number; pending: boolean } => {
  const idOf = (rows: unknown[]) => (rows[0] as { id: number | null } | undefined)?.id ?? null;
  const [newest, held] = [idOf(last) ?? 0, idOf(lowest)];
  return held === null ? { id: newest, pending: false } : { id: Math.min(newest, held), pending: true };
};
