import type { Storage, Tx } from '../tables.ts';
import type { NodesTables } from './tables.ts';

export type OperatorWishRow = NodesTables['nodes_operator_wishes'];

/** The SQL of operators' own directives of desired state: one row for each wish of a node. */
export const operatorWishesRepository = (storage: Storage) => ({
  write: <T>(name: string, work: (tx: Tx) => Promise<T>): Promise<T> => storage.write(name, work),
  ofNode: (uid: string): Promise<OperatorWishRow[]> =>
    storage.read.selectFrom('nodes_operator_wishes').selectAll().where('node_uid', '=', uid).execute(),
  put: async (tx: Tx, row: OperatorWishRow): Promise<void> => {
    await tx
      .insertInto('nodes_operator_wishes')
      .values(row)
      .onConflict((conflict) =>
        conflict
          .columns(['node_uid', 'kind', 'object_id'])
          .doUpdateSet({ generation: row.generation, envelope: row.envelope, signed_at: row.signed_at }),
      )
      .execute();
  },
  forget: async (tx: Tx, uid: string): Promise<void> => {
    await tx.deleteFrom('nodes_operator_wishes').where('node_uid', '=', uid).execute();
  },
});
export type OperatorWishesRepository = ReturnType<typeof operatorWishesRepository>;
