import { type Selectable, sql } from 'kysely';
import { forUpdate } from '../platform/storage/for-update.ts';
import type { Storage, Tx } from '../tables.ts';
import type { NodesTables } from './tables.ts';

export type RegistrationRow = Selectable<NodesTables['nodes_registrations']>;

export interface PendingLimits {
  all: number;
  /** From one address, and with one join token. */
  each: number;
}

/** The SQL of enrolments under way and of used nonces. */
export const registrationsRepository = (storage: Storage) => ({
  /** Tells of what there are too many under way already, if so. */
  add: (row: RegistrationRow, atMost: PendingLimits): Promise<'added' | 'too many' | 'too many of its own'> =>
    storage.write('nodes.register-init', async (tx) => {
      const pending = await tx
        .selectFrom('nodes_registrations')
        .select((of) => [
          of.fn.countAll<number>().as('all'),
          sql<number>`count(case when remote_address = ${row.remote_address} then 1 end)`.as('there'),
          sql<number>`count(case when token_id = ${row.token_id} then 1 end)`.as('with_it'),
        ])
        .where('completed_at', 'is', null)
        .where('expires_at', '>', row.created_at)
        .executeTakeFirstOrThrow();
      if (pending.there >= atMost.each || pending.with_it >= atMost.each) return 'too many of its own';
      if (pending.all >= atMost.all) return 'too many';
      await tx.insertInto('nodes_registrations').values(row).execute();
      return 'added';
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
