import { type Selectable, sql } from 'kysely';
import { forUpdate } from '../platform/storage/for-update.ts';
import type { Storage, Tx } from '../tables.ts';
import type { NodesTables } from './tables.ts';

export type RegistrationRow = Selectable<NodesTables['nodes_registrations']>;

/** The SQL of enrolments under way and of used nonces. */
export const registrationsRepository = (storage: Storage) => ({
  /** False when `atMost` registrations wait already. */
  add: (row: RegistrationRow, atMost: number): Promise<boolean> =>
    storage.write('nodes.register-init', async (tx) => {
      const { waiting } = await tx
        .selectFrom('nodes_registrations')
        .select((where) => where.fn.countAll<number>().as('waiting'))
        .where('completed_at', 'is', null)
        .where('expires_at', '>', row.created_at)
        .executeTakeFirstOrThrow();
      if (waiting >= atMost) return false;
      await tx.insertInto('nodes_registrations').values(row).execute();
      return true;
    }),
  byId: (id: string): Promise<RegistrationRow | undefined> =>
    storage.read.selectFrom('nodes_registrations').selectAll().where('id', '=', id).executeTakeFirst(),
  byIdIn: (tx: Tx, id: string): Promise<RegistrationRow | undefined> =>
    forUpdate(storage, tx.selectFrom('nodes_registrations').selectAll().where('id', '=', id)).executeTakeFirst(),
  complete: async (tx: Tx, id: string, nodeUid: string, now: number): Promise<void> => {
    await tx
      .updateTable('nodes_registrations')
      .set({ completed_at: now, node_uid: nodeUid })
      .where('id', '=', id)
      .execute();
  },
  /** False when this node used this nonce before. */
  useNonce: (nodeUid: string, nonce: string, expiresAt: number): Promise<boolean> =>
    storage.write('nodes.renew-token', async (tx) => {
      const { numInsertedOrUpdatedRows } = await tx
        .insertInto('nodes_token_nonces')
        .values({ node_uid: nodeUid, nonce, expires_at: expiresAt })
        .onConflict((conflict) => conflict.doNothing())
        .executeTakeFirst();
      return numInsertedOrUpdatedRows === 1n;
    }),
  /** Forgets what has expired: registrations that nobody completed, completed ones that nobody will ask about, nonces. */
  sweep: (now: number, completedBefore: number): Promise<void> =>
    storage.write('nodes.sweep', async (tx) => {
      await sql`delete from nodes_registrations where (completed_at is null and expires_at < ${now})
        or completed_at < ${completedBefore}`.execute(tx);
      await tx.deleteFrom('nodes_token_nonces').where('expires_at', '<', now).execute();
    }),
});
export type RegistrationsRepository = ReturnType<typeof registrationsRepository>;
