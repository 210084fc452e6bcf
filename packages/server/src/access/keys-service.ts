import type { NewTrustedKey, TrustedKey } from '@aegis/protocol/access/endpoints';
import { keyIdOf } from '@aegis/protocol/access/keys';
import { parsePublicKey } from '@aegis/protocol/access/minisign';
import type { TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { decodeCursor, encodeCursor } from '../platform/paging.ts';
import type { Trust } from './trust.ts';

/** The keys that the fleet's nodes trust: listed, added, revoked. A key that was revoked stays in the bundle and never comes back. */

type Key = TrustBundle['keys'][number];
const MAX_KEYS = 1024;
const Cursor = z.tuple([z.int().check(z.minimum(0))]);

export const keysService = (trust: Trust) => ({
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
   *  @throws AegisError access.bad_key, access.key_conflict, access.root_key_absent */
  add: async (wanted: NewTrustedKey): Promise<TrustedKey> => {
    const { raw, minisignId } = parsePublicKey(wanted.public_key);
    const key: Key = {
      keyid: keyIdOf(raw),
      public_key: raw.toString('base64'),
      name: wanted.name,
      ...(wanted.person === undefined ? {} : { person: wanted.person }),
      usage: [...new Set(wanted.usage)],
      ...(minisignId === null ? {} : { minisign_id: minisignId }),
      state: 'active',
    };
    await trust.change((keys) => (isListed(keys, key) ? null : [...keys, key]));
    return shown(key);
  },

  /** @param id as minisign prints it, or the key id, of which the first 16 digits do
   *  @throws AegisError access.unknown_key, access.key_conflict, access.root_key_absent */
  revoke: async (id: string): Promise<TrustedKey> => {
    let revoked: Key | undefined;
    await trust.change((keys) => {
      const key = named(keys, id);
      revoked = { ...key, state: 'revoked' };
      return key.state === 'revoked'
        ? null
        : keys.map((one) => (one === key ? { ...one, state: 'revoked' as const } : one));
    });
    if (!revoked) throw unknownKey(id);
    return shown(revoked);
  },
});
export type KeysService = ReturnType<typeof keysService>;

const conflict = (message: string): AegisError => new AegisError('access.key_conflict', message);

/** Whether it is in the bundle, just so. @throws AegisError access.key_conflict when it, or one that could be taken for it, is */
const isListed = (keys: readonly Key[], key: Key): boolean => {
  const same = keys.find(({ keyid }) => keyid === key.keyid);
  if (same?.state === 'revoked')
    throw conflict(
      `This key was revoked as '${same.name}', and a revoked key never comes back. Make another with 'aegis access keys create'.`,
    );
  if (same && JSON.stringify(shown(same)) !== JSON.stringify(shown(key)))
    throw conflict(
      `This key is listed already, as '${same.name}' for ${same.usage.join(', ')}. Revoke it, and add another in its place.`,
    );
  if (same) return true;
  const twin = keys.find(({ minisign_id }) => minisign_id !== undefined && minisign_id === key.minisign_id);
  if (twin)
    throw conflict(
      `The key '${twin.name}' bears the same id ${key.minisign_id}, so that people could take one for the other. Make another key.`,
    );
  if (keys.length >= MAX_KEYS)
    throw conflict(
      `The trust bundle lists ${MAX_KEYS} keys, revoked ones included, and takes no more. Set up a new fleet.`,
    );
  return false;
};

const named = (keys: readonly Key[], id: string): Key => {
  const start = /^[0-9a-f]{16,64}$/i.test(id) ? id.toLowerCase() : null;
  const found = keys.filter(
    ({ keyid, minisign_id }) => minisign_id === id.toUpperCase() || (start !== null && keyid.startsWith(start)),
  );
  const [key] = found;
  if (!key) throw unknownKey(id);
  if (found.length > 1) throw conflict(`'${id}' names several keys. Give the whole key id of 64 digits.`);
  if (key.usage.includes('serve'))
    throw conflict("That is the server's own key: without it no node obeys this server. It is not revoked here.");
  return key;
};

const unknownKey = (id: string): AegisError =>
  new AegisError(
    'access.unknown_key',
    `There is no key '${id.slice(0, 64)}'. 'aegis access keys list' shows each with its id.`,
  );

const shown = ({ keyid, minisign_id, name, person, usage, state, public_key }: Key): TrustedKey => ({
  keyid,
  minisign_id: minisign_id ?? null,
  name,
  person: person ?? null,
  usage,
  state,
  public_key,
});
