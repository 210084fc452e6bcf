import type { NewTrustedKey, TrustedKey } from '@aegis/protocol/access/endpoints';
import type { TrustKey } from '@aegis/protocol/access/trust-bundle';
import * as z from 'zod/mini';
import { decodeCursor, encodeCursor } from '../platform/paging.ts';
import type { Trust } from './trust.ts';
import { keyOf, withKey, withoutKey } from './trust-changes.ts';

/** The keys that the fleet's nodes trust: listed, added, revoked. */

const Cursor = z.tuple([z.int().check(z.minimum(0))]);

export const keysService = (trust: Pick<Trust, 'current' | 'change'>) => ({
  /** In the order in which they were added, which never changes. */
  list: ({ limit, cursor }: { limit: number; cursor?: string | undefined }) => {
    const { bundle, version } = trust.current();
    const from = cursor === undefined ? 0 : decodeCursor(cursor, Cursor)[0];
    const to = from + limit;
    return {
      items: bundle.keys.slice(from, to).map(shown),
      trust_version: version,
      next_cursor: to < bundle.keys.length ? encodeCursor([to]) : null,
    };
  },

  /** The same again is answered as the first time.
   *  @throws AegisError access.bad_key, access.bad_scope, access.key_conflict, access.root_key_absent */
  add: async (wanted: NewTrustedKey): Promise<TrustedKey> => {
    const key = keyOf(wanted);
    await trust.change((keys) => withKey(keys, key));
    return shown(key);
  },

  /** @throws AegisError access.unknown_key, access.key_conflict, access.root_key_absent */
  revoke: async (id: string): Promise<TrustedKey> => {
    const revoked = { key: withoutKey(trust.current().bundle.keys, id).key };
    await trust.change((keys) => {
      const { key, keys: next } = withoutKey(keys, id);
      revoked.key = key;
      return next;
    });
    return shown(revoked.key);
  },
});
export type KeysService = ReturnType<typeof keysService>;

const shown = ({ keyid, minisign_id, name, person, usage, scope, until, state, public_key }: TrustKey): TrustedKey => ({
  keyid,
  minisign_id: minisign_id ?? null,
  name,
  person: person ?? null,
  usage,
  scope: scope ?? null,
  until: until ?? null,
  state,
  public_key,
});
