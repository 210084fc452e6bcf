import type { Storage, Tx } from '../../tables.ts';
import type { AlertRow, IncidentRow } from '../tables.ts';

/** The SQL of incidents and of alerts on their way. */

export const alertsRepository = ({ read, write }: Storage) => ({
  /** False: it is open already. */
  open: async (tx: Tx, row: IncidentRow): Promise<boolean> => {
    const { numInsertedOrUpdatedRows } = await tx
      .insertInto('backups_incidents')
      .values(row)
      .onConflict((conflict) => conflict.doNothing())
      .executeTakeFirst();
    return numInsertedOrUpdatedRows === 1n;
  },
  /** @returns those that were open */
  close: (tx: Tx, pair: Pick<IncidentRow, 'config_id' | 'node_uid'>): Promise<IncidentRow[]> =>
    tx
      .deleteFrom('backups_incidents')
      .where('config_id', '=', pair.config_id)
      .where('node_uid', '=', pair.node_uid)
      .returningAll()
      .execute(),
  absences: (): Promise<IncidentRow[]> =>
    read.selectFrom('backups_incidents').selectAll().where('kind', '=', 'absence').execute(),
  forget: ({ config_id, node_uid, kind }: IncidentRow): Promise<void> =>
    write('backups.incident-over', async (tx) => {
      await tx
        .deleteFrom('backups_incidents')
        .where('config_id', '=', config_id)
        .where('node_uid', '=', node_uid)
        .where('kind', '=', kind)
        .execute();
    }),
  countAlerts: async (tx: Tx): Promise<number> => {
    const { count } = await tx
      .selectFrom('backups_alerts')
      .select(({ fn }) => fn.countAll<number>().as('count'))
      .executeTakeFirstOrThrow();
    return Number(count);
  },
  add: async (tx: Tx, rows: readonly AlertRow[]): Promise<void> => {
    if (rows.length > 0)
      await tx
        .insertInto('backups_alerts')
        .values([...rows])
        .execute();
  },
  due: (target: string, now: number, limit: number): Promise<AlertRow[]> =>
    read
      .selectFrom('backups_alerts')
      .selectAll()
      .where('target', '=', target)
      .where('next_at', '<=', now)
      .orderBy('next_at')
      .orderBy('id')
      .limit(limit)
      .execute(),
  /** Of those that wait. */
  nextAt: async (target: string): Promise<number | null> =>
    (
      await read
        .selectFrom('backups_alerts')
        .select('next_at')
        .where('target', '=', target)
        .orderBy('next_at')
        .limit(1)
        .executeTakeFirst()
    )?.next_at ?? null,
  /** The settings were changed: nobody is there to take them. */
  removeOthers: (targets: readonly string[]): Promise<void> =>
    write('backups.alerts-of-none', async (tx) => {
      await tx
        .deleteFrom('backups_alerts')
        .where('target', 'not in', [...targets])
        .execute();
    }),
  /** False: another server process was first. It is due again at `until` if nothing more is heard of this one. */
  claim: (row: AlertRow, until: number): Promise<boolean> =>
    write('backups.alert-claim', async (tx) => {
      const { numUpdatedRows } = await tx
        .updateTable('backups_alerts')
        .set({ next_at: until, tries: row.tries + 1 })
        .where('id', '=', row.id)
        .where('tries', '=', row.tries)
        .executeTakeFirst();
      return numUpdatedRows === 1n;
    }),
  again: (id: string, at: number, error: string): Promise<void> =>
    write('backups.alert-again', async (tx) => {
      await tx.updateTable('backups_alerts').set({ next_at: at, error }).where('id', '=', id).execute();
    }),
  remove: (id: string): Promise<void> =>
    write('backups.alert-done', async (tx) => {
      await tx.deleteFrom('backups_alerts').where('id', '=', id).execute();
    }),
  write,
});
export type AlertsRepository = ReturnType<typeof alertsRepository>;
