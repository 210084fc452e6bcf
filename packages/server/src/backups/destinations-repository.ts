import type { Destination } from '@aegis/protocol/backups/config';
import type { Storage, Tx } from '../tables.ts';
import type { DestinationRow } from './tables.ts';

/** The SQL of the places that configurations have or had. */

/** A place as those who reach it need it. Credentials are still encrypted. */
export interface Place {
  id: string;
  configId: string;
  destination: Destination;
  accessKeyId: string | null;
  credentials: string | null;
  probe: Probe | null;
}
export interface Probe {
  at: string;
  ok: boolean;
  conditional_writes: boolean;
  notes: string[];
}

export const placeOf = (row: DestinationRow): Place => ({
  id: row.id,
  configId: row.config_id,
  destination: JSON.parse(row.destination) as Destination, // as validated when it was stored
  accessKeyId: row.access_key_id,
  credentials: row.credentials,
  probe: row.probe === null ? null : (JSON.parse(row.probe) as Probe),
});

export const destinationsRepository = ({ read, write }: Storage) => ({
  byId: async (id: string): Promise<Place | undefined> => {
    const row = await read.selectFrom('backups_destinations').selectAll().where('id', '=', id).executeTakeFirst();
    return row && placeOf(row);
  },
  byIds: async (ids: readonly string[]): Promise<Map<string, Place>> => {
    if (ids.length === 0) return new Map();
    const rows = await read
      .selectFrom('backups_destinations')
      .selectAll()
      .where('id', 'in', [...new Set(ids)])
      .execute();
    return new Map(rows.map((row) => [row.id, placeOf(row)]));
  },
  ofConfig: async (configId: string): Promise<Place[]> =>
    (
      await read
        .selectFrom('backups_destinations')
        .selectAll()
        .where('config_id', '=', configId)
        .orderBy('id')
        .execute()
    ).map(placeOf),
  rowIn: (tx: Tx, id: string): Promise<DestinationRow | undefined> =>
    tx.selectFrom('backups_destinations').selectAll().where('id', '=', id).executeTakeFirst(),
  /** Every place in use: of configurations that are there, and of runs whose objects are. */
  all: async (): Promise<Place[]> =>
    (await read.selectFrom('backups_destinations').selectAll().orderBy('id').execute()).map(placeOf),
  insert: async (tx: Tx, row: DestinationRow): Promise<void> => {
    await tx.insertInto('backups_destinations').values(row).execute();
  },
  update: async (
    tx: Tx,
    id: string,
    change: Partial<Pick<DestinationRow, 'destination' | 'access_key_id' | 'credentials' | 'probe'>>,
  ): Promise<void> => {
    await tx.updateTable('backups_destinations').set(change).where('id', '=', id).execute();
  },
  setProbe: (id: string, probe: Probe): Promise<void> =>
    write('backups.probe', async (tx) => {
      await tx
        .updateTable('backups_destinations')
        .set({ probe: JSON.stringify(probe) })
        .where('id', '=', id)
        .execute();
    }),
  /** What neither a configuration nor a run names any more. Where a run needed several attempts, the former ones may have gone to any place
   *  that its configuration had, and left something there. */
  removeUnused: (): Promise<number> =>
    write('backups.unused-destinations', async (tx) => {
      const { numDeletedRows } = await tx
        .deleteFrom('backups_destinations')
        .where(({ not, exists, selectFrom, and }) =>
          and([
            not(
              exists(
                selectFrom('backups_configs')
                  .select('id')
                  .whereRef('destination_id', '=', 'backups_destinations.id')
                  .where('deleted_at', 'is', null),
              ),
            ),
            not(
              exists(
                selectFrom('backups_runs').select('id').whereRef('destination_id', '=', 'backups_destinations.id'),
              ),
            ),
            not(
              exists(
                selectFrom('backups_runs')
                  .select('id')
                  .whereRef('config_id', '=', 'backups_destinations.config_id')
                  .where('attempt', '>', 1),
              ),
            ),
          ]),
        )
        .executeTakeFirst();
      return Number(numDeletedRows);
    }),
});
export type DestinationsRepository = ReturnType<typeof destinationsRepository>;
