import type { Selectable } from 'kysely';
import { compiledOnce } from '../platform/storage/compiled.ts';
import type { Storage, Tx } from '../tables.ts';
import type { AccessTables } from './tables.ts';

export type TokenRow = Selectable<AccessTables['access_tokens']>;
export type JoinTokenRow = Selectable<AccessTables['access_join_tokens']>;

export interface PageOf {
  limit: number;
  /** The (created_at, id) after which the page begins. */
  after?: readonly [number, string];
}

/** The SQL of the access domain. */
export const accessRepository = (storage: Storage) => {
  const page = <T extends 'access_tokens' | 'access_join_tokens'>(table: T, { limit, after }: PageOf) => {
    const rows = storage.read
      .selectFrom(table as 'access_tokens')
      .orderBy('created_at')
      .orderBy('id')
      .limit(limit);
    return after
      ? rows.where((where) => where(where.refTuple('created_at', 'id'), '>', where.tuple(after[0], after[1])))
      : rows;
  };
  const tokenWith = compiledOnce((of: { id: string }) =>
    storage.read.selectFrom('access_tokens').selectAll().where('id', '=', of.id),
  );
  return {
    /** The fleet that the database belongs to: the first one that asked. */
    claimFor: (fleet: {
      fleet: string;
      root_fingerprint: string;
    }): Promise<{ root_fingerprint: string; fleet: string }> =>
      storage.write('access.claim', async (tx) => {
        const owner = await tx.selectFrom('access_fleet').selectAll().executeTakeFirst();
        if (owner) return owner;
        await tx.insertInto('access_fleet').values(fleet).execute();
        return fleet;
      }),

    addToken: (row: TokenRow) =>
      storage.write('access.add-token', async (tx) => {
        await tx.insertInto('access_tokens').values(row).execute();
      }),
    token: async (id: string): Promise<TokenRow | undefined> => (await tokenWith(storage.read, { id }))[0],
    goodTokens: async (ids: readonly string[], now: number): Promise<Set<string>> => {
      const rows = await storage.read
        .selectFrom('access_tokens')
        .select('id')
        .where('id', 'in', ids)
        .where('revoked_at', 'is', null)
        .where((where) => where.or([where('expires_at', 'is', null), where('expires_at', '>', now)]))
        .execute();
      return new Set(rows.map(({ id }) => id));
    },
    tokens: (of: PageOf): Promise<TokenRow[]> => page('access_tokens', of).selectAll().execute(),
    /** The first revocation's time stays. */
    revokeToken: (id: string, now: number): Promise<TokenRow | undefined> =>
      storage.write('access.revoke-token', async (tx) => {
        await tx
          .updateTable('access_tokens')
          .set({ revoked_at: now })
          .where('id', '=', id)
          .where('revoked_at', 'is', null)
          .execute();
        return tx.selectFrom('access_tokens').selectAll().where('id', '=', id).executeTakeFirst();
      }),

    addJoinToken: (row: JoinTokenRow) =>
      storage.write('access.add-join-token', async (tx) => {
        await tx.insertInto('access_join_tokens').values(row).execute();
      }),
    joinTokens: (of: PageOf): Promise<JoinTokenRow[]> =>
      page('access_join_tokens', of).selectAll().execute() as unknown as Promise<JoinTokenRow[]>,
    revokeJoinToken: (id: string, now: number): Promise<JoinTokenRow | undefined> =>
      storage.write('access.revoke-join-token', async (tx) => {
        await tx
          .updateTable('access_join_tokens')
          .set({ revoked_at: now })
          .where('id', '=', id)
          .where('revoked_at', 'is', null)
          .execute();
        return tx.selectFrom('access_join_tokens').selectAll().where('id', '=', id).executeTakeFirst();
      }),
    /** Counts one use in the caller's transaction; undefined when the token is unknown, used up, expired or revoked. One
     *  statement, so that two who race for the last use cannot both have it. */
    useJoinToken: (tx: Tx, id: string, now: number): Promise<JoinTokenRow | undefined> =>
      tx
        .updateTable('access_join_tokens')
        .set((where) => ({ used: where('used', '+', 1) }))
        .where('id', '=', id)
        .where('revoked_at', 'is', null)
        .where('expires_at', '>', now)
        .whereRef('used', '<', 'uses')
        .returningAll()
        .executeTakeFirst(),
  };
};
export type AccessRepository = ReturnType<typeof accessRepository>;
