import { sql } from 'kysely';
import type { NodeScope, Within } from '../platform/node-scope.ts';
import { forUpdate } from '../platform/storage/for-update.ts';
import type { Storage, Tx } from '../tables.ts';
import type { ConfigRow } from './tables.ts';

/** The SQL of configurations. Whoever changes one, or an assignment of it, locks its row first. */

/** What a comparison of desired state needs of a configuration. */
export type ConfigTargets = Pick<ConfigRow, 'id' | 'targets' | 'revision'>;

export interface ConfigHead {
  id: string;
  name: string;
  chars: number;
}

const EACH_AT_ONCE = 8;

const assignedWithin = (within: NodeScope) =>
  sql<boolean>`exists (select 1 from backups_assignments as a
    where a.config_id = backups_configs.id and a.present = 1 and ${within.holds('a.node_uid')})`;
const ranWithin = (within: NodeScope) =>
  sql<boolean>`exists (select 1 from backups_runs as r
    where r.config_id = backups_configs.id and ${within.holds('r.node_uid')})`;

export const configsRepository = (storage: Storage) => {
  const { read } = storage;
  const live = () => read.selectFrom('backups_configs').selectAll().where('deleted_at', 'is', null);
  return {
    byId: (id: string): Promise<ConfigRow | undefined> => live().where('id', '=', id).executeTakeFirst(),
    byName: (name: string): Promise<ConfigRow | undefined> => live().where('name', '=', name).executeTakeFirst(),
    /** Whether a node within has it, or has backups of it: else there is no such configuration for who asks. */
    isWithin: async (id: string, within: NodeScope): Promise<boolean> =>
      (await read
        .selectFrom('backups_configs')
        .select('id')
        .where('id', '=', id)
        .where((where) => where.or([assignedWithin(within), ranWithin(within)]))
        .executeTakeFirst()) !== undefined,
    /** Also a deleted one, of several with the name the newest: its runs are still there. */
    everBy: (key: 'id' | 'name', text: string): Promise<ConfigRow | undefined> =>
      read
        .selectFrom('backups_configs')
        .selectAll()
        .where(key, '=', text)
        .orderBy(sql`deleted_at is not null`)
        .orderBy('deleted_at', 'desc')
        .limit(1)
        .executeTakeFirst(),
    byIds: async (ids: readonly string[]): Promise<Map<string, ConfigRow>> => {
      if (ids.length === 0) return new Map();
      const rows = await read
        .selectFrom('backups_configs')
        .selectAll()
        .where('id', 'in', [...new Set(ids)])
        .execute();
      return new Map(rows.map((row) => [row.id, row]));
    },
    /** Live ones, by name, and how much text each is. @param nodeUid those that this node has */
    page: (
      limit: number,
      after: readonly [string, string] | undefined,
      nodeUid: string | undefined,
      within: Within,
    ): Promise<ConfigHead[]> => {
      let rows = read
        .selectFrom('backups_configs')
        .select(['id', 'name', sql<number>`length(spec)`.as('chars')])
        .where('deleted_at', 'is', null)
        .orderBy('name')
        .orderBy('id')
        .limit(limit);
      if (within !== null) rows = rows.where((where) => where.or([assignedWithin(within), ranWithin(within)]));
      if (nodeUid !== undefined)
        rows = rows.where('id', 'in', (of) =>
          of
            .selectFrom('backups_assignments')
            .select('config_id')
            .where('node_uid', '=', nodeUid)
            .where('present', '=', 1),
        );
      return (
        after ? rows.where((where) => where(where.refTuple('name', 'id'), '>', where.tuple(after[0], after[1]))) : rows
      ).execute();
    },
    /** Live ones of the server's own files. */
    ofServer: (): Promise<ConfigRow[]> => live().where('mode', '=', 'server').orderBy('id').execute(),
    /** Every live one, a few at a time: each may be a MiB of text. */
    each: async function* (): AsyncGenerator<ConfigRow, void, undefined> {
      for (let after = '', rows: ConfigRow[] = []; ; after = rows.at(-1)?.id ?? '') {
        rows = await live().where('id', '>', after).orderBy('id').limit(EACH_AT_ONCE).execute();
        yield* rows;
        if (rows.length < EACH_AT_ONCE) return;
      }
    },
    targets: (): Promise<ConfigTargets[]> =>
      read
        .selectFrom('backups_configs')
        .select(['id', 'targets', 'revision'])
        .where('deleted_at', 'is', null)
        .where('mode', '=', 'agent')
        .orderBy('id')
        .execute(),
    /** A deleted one too. */
    lock: (tx: Tx, id: string): Promise<ConfigRow | undefined> =>
      forUpdate(storage, tx.selectFrom('backups_configs').selectAll().where('id', '=', id)).executeTakeFirst(),
    countIn: async (tx: Tx): Promise<number> => {
      const { count } = await tx
        .selectFrom('backups_configs')
        .select(({ fn }) => fn.countAll<number>().as('count'))
        .where('deleted_at', 'is', null)
        .executeTakeFirstOrThrow();
      return Number(count);
    },
    /** Of another live configuration. */
    nameTakenIn: async (tx: Tx, name: string, butBy: string): Promise<boolean> =>
      (await tx
        .selectFrom('backups_configs')
        .select('id')
        .where('name', '=', name)
        .where('id', '<>', butBy)
        .where('deleted_at', 'is', null)
        .executeTakeFirst()) !== undefined,
    /** False: the name is taken. */
    insert: async (tx: Tx, row: ConfigRow): Promise<boolean> => {
      const { numInsertedOrUpdatedRows } = await tx
        .insertInto('backups_configs')
        .values(row)
        .onConflict((conflict) => conflict.doNothing())
        .executeTakeFirst();
      return numInsertedOrUpdatedRows === 1n;
    },
    update: async (tx: Tx, id: string, change: Partial<Omit<ConfigRow, 'id'>>): Promise<void> => {
      await tx.updateTable('backups_configs').set(change).where('id', '=', id).execute();
    },
    read,
    write: storage.write,
  };
};
export type ConfigsRepository = ReturnType<typeof configsRepository>;
