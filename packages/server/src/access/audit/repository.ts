import { type AuditEntry, type AuditOutcome, auditHash } from '@aegis/protocol/access/audit';
import type { Selectable } from 'kysely';
import { isoTime } from '../../platform/clock.ts';
import { forUpdate } from '../../platform/storage/for-update.ts';
import { type Columns, rowInserts } from '../../platform/storage/row-statements.ts';
import { together } from '../../platform/storage/statements.ts';
import type { Storage } from '../../tables.ts';
import type { AuditTables } from './tables.ts';

export type AuditRow = Selectable<AuditTables['access_audit']>;
export type SignedRow = Selectable<AuditTables['access_audit_signed']>;
/** An entry before it has its place in the chain. `at`: milliseconds since 1970. */
export type NewEntry = Omit<AuditEntry, 'seq' | 'hash' | 'at' | 'outcome'> & { at: number; outcome: AuditOutcome };

export interface AuditFilter {
  actor?: string | undefined;
  action?: string | undefined;
  outcome?: string | undefined;
  target?: string | undefined;
  address?: string | undefined;
  request_id?: string | undefined;
  since?: number | undefined;
  until?: number | undefined;
}

const COLUMNS: Columns = {
  seq: 'bigint',
  at: 'bigint',
  request_id: 'text',
  actor_kind: 'text',
  actor_id: 'text',
  actor_name: 'text',
  key_id: 'text',
  action: 'text',
  targets: 'text',
  summary: 'text',
  address: 'text',
  outcome: 'text',
  code: 'text',
  count: 'bigint',
  hash: 'text',
};

/** The SQL of the audit chain. */
export const auditRepository = (storage: Storage) => {
  const inserts = rowInserts(storage.kind, 'access_audit', COLUMNS);
  return {
    /** Gives entries their places. It is the last work of its transaction: nobody waits for the head longer than a commit takes, and
     *  who holds it waits for no other lock. @returns the places */
    append: storage.writeTogether(
      'access.audit',
      async (tx, entries: readonly NewEntry[]) => {
        const head = await forUpdate(
          storage,
          tx.selectFrom('access_audit_head').select(['seq', 'hash']).where('id', '=', 1),
        ).executeTakeFirstOrThrow();
        let { seq, hash } = head;
        const rows = entries.map((entry) => {
          seq += 1;
          hash = auditHash(hash, { ...entry, seq, at: isoTime(entry.at) });
          const row: AuditRow = {
            ...entry,
            seq,
            hash,
            targets: JSON.stringify(entry.targets),
            summary: JSON.stringify(entry.summary),
          };
          return row;
        });
        await together(tx, [inserts(rows.map((row) => ({ ...row })))]);
        await tx.updateTable('access_audit_head').set({ seq, hash }).where('id', '=', 1).execute();
        return rows.map((row) => row.seq);
      },
      { last: true },
    ),

    head: (): Promise<{ seq: number; hash: string }> =>
      storage.read
        .selectFrom('access_audit_head')
        .select(['seq', 'hash'])
        .where('id', '=', 1)
        .executeTakeFirstOrThrow(),

    /** Newest first, before `before`. */
    page: (filter: AuditFilter, limit: number, before: number | undefined): Promise<AuditRow[]> => {
      let rows = storage.read.selectFrom('access_audit').selectAll().orderBy('seq', 'desc').limit(limit);
      const { actor, target } = filter;
      if (before !== undefined) rows = rows.where('seq', '<', before);
      if (actor !== undefined)
        rows = rows.where((where) => where.or([where('actor_id', '=', actor), where('actor_name', '=', actor)]));
      // As it stands in the JSON list; LIKE would take % and _ of the wanted text for patterns.
      if (target !== undefined)
        rows = rows.where((where) =>
          where(
            where.fn(storage.kind === 'sqlite' ? 'instr' : 'strpos', ['targets', where.val(JSON.stringify(target))]),
            '>',
            0,
          ),
        );
      for (const name of ['action', 'outcome', 'address', 'request_id'] as const) {
        const wanted = filter[name];
        if (wanted !== undefined) rows = rows.where(name, '=', wanted);
      }
      if (filter.since !== undefined) rows = rows.where('at', '>=', filter.since);
      if (filter.until !== undefined) rows = rows.where('at', '<', filter.until);
      return rows.execute();
    },

    /** Oldest first, from the one after `after` to `last`. */
    following: (after: number, last: number, limit: number): Promise<AuditRow[]> =>
      storage.read
        .selectFrom('access_audit')
        .selectAll()
        .where('seq', '>', after)
        .where('seq', '<=', last)
        .orderBy('seq')
        .limit(limit)
        .execute(),

    addSigned: (row: SignedRow): Promise<void> =>
      storage.write('access.audit-sign', async (tx) => {
        await tx
          .insertInto('access_audit_signed')
          .values(row)
          .onConflict((conflict) => conflict.columns(['seq', 'kind']).doNothing())
          .execute();
      }),
    /** Newest first. */
    signed: (limit: number, before: readonly [number, SignedRow['kind']] | undefined): Promise<SignedRow[]> => {
      const rows = storage.read
        .selectFrom('access_audit_signed')
        .selectAll()
        .orderBy('seq', 'desc')
        .orderBy('kind', 'desc')
        .limit(limit);
      return (
        before
          ? rows.where((where) => where(where.refTuple('seq', 'kind'), '<', where.tuple(before[0], before[1])))
          : rows
      ).execute();
    },
    newestSigned: (kind: 'head' | 'cut'): Promise<SignedRow | undefined> =>
      storage.read
        .selectFrom('access_audit_signed')
        .selectAll()
        .where('kind', '=', kind)
        .orderBy('seq', 'desc')
        .limit(1)
        .executeTakeFirst(),

    /** The last of at most `limit` entries at the chain's beginning that are all older than `before`. */
    lastOld: async (before: number, limit: number): Promise<Pick<AuditRow, 'seq' | 'hash'> | undefined> => {
      const rows = await storage.read
        .selectFrom('access_audit')
        .select(['seq', 'hash', 'at'])
        .orderBy('seq')
        .limit(limit)
        .execute();
      const young = rows.findIndex(({ at }) => at >= before);
      return (young < 0 ? rows : rows.slice(0, young)).at(-1);
    },
    /** Removes the beginning and leaves the signed anchor, in one transaction; heads before it go as well. */
    cut: (anchor: SignedRow): Promise<void> =>
      storage.write('access.audit-cut', async (tx) => {
        await tx
          .insertInto('access_audit_signed')
          .values(anchor)
          .onConflict((conflict) => conflict.columns(['seq', 'kind']).doNothing())
          .execute();
        await tx.deleteFrom('access_audit').where('seq', '<=', anchor.seq).execute();
        await tx.deleteFrom('access_audit_signed').where('seq', '<', anchor.seq).execute();
      }),
  };
};
export type AuditRepository = ReturnType<typeof auditRepository>;
