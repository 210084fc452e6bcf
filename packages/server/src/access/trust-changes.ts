import type { NewTrustedKey } from '@aegis/protocol/access/endpoints';
import { type KeyPair, keyIdOf } from '@aegis/protocol/access/keys';
import { parsePublicKey } from '@aegis/protocol/access/minisign';
import type { TrustKey, TrustRoot } from '@aegis/protocol/access/trust-bundle';
import { TrustRoot as TrustRootSchema } from '@aegis/protocol/access/trust-bundle';
import type { TrustChange } from '@aegis/protocol/access/trust-endpoints';
import { parseSelector, selectorKeys } from '@aegis/protocol/commands/selector';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';

/** What a next trust bundle lists, made of what the present one does. A key that was revoked stays in the bundle and never comes back. */

const MAX_KEYS = 1024;
type Keys = readonly TrustKey[];

/** @throws AegisError access.bad_key, access.bad_scope */
export const keyOf = (wanted: NewTrustedKey): TrustKey => {
  const { raw, minisignId } = parsePublicKey(wanted.public_key);
  return {
    keyid: keyIdOf(raw),
    public_key: raw.toString('base64'),
    name: wanted.name,
    ...(wanted.person === undefined ? {} : { person: wanted.person }),
    usage: [...new Set(wanted.usage)],
    ...(minisignId === null ? {} : { minisign_id: minisignId }),
    ...(wanted.scope === undefined ? {} : { scope: checkedScope(wanted) }),
    state: 'active',
  };
};

const checkedScope = ({ scope, usage }: NewTrustedKey): NonNullable<TrustKey['scope']> => {
  if (!usage.includes('operate'))
    throw badScope("A scope bounds what a key of usage 'operate' may order. Leave it out, or give that usage.");
  const { kinds, selector } = scope ?? {};
  if (kinds === undefined && selector === undefined)
    throw badScope('The scope bounds nothing. Name kinds or a selector in it, or leave it out.');
  if (selector !== undefined && selectorKeys(parseSelector(selector)).has('status'))
    throw badScope(
      'A node does not know its own status, so that no scope can ask for it. Select by name, site or labels.',
    );
  return { ...(kinds ? { kinds: [...new Set(kinds)] } : {}), ...(selector === undefined ? {} : { selector }) };
};
const badScope = (message: string): AegisError => new AegisError('access.bad_scope', message);

/** Null: it is listed already, just so. @throws AegisError access.key_conflict when it, or one that could be taken for it, is */
export const withKey = (keys: Keys, key: TrustKey): TrustKey[] | null => {
  const same = keys.find(({ keyid }) => keyid === key.keyid);
  if (same?.state === 'revoked')
    throw conflict(
      `This key was revoked as '${same.name}', and a revoked key never comes back. Make another with 'aegis access keys create'.`,
    );
  if (same && JSON.stringify(inOrder(same)) !== JSON.stringify(inOrder(key)))
    throw conflict(
      `This key is listed already, as '${same.name}' for ${same.usage.join(', ')}. Revoke it, and add another in its place.`,
    );
  if (same) return null;
  const twin = keys.find(({ minisign_id }) => minisign_id !== undefined && minisign_id === key.minisign_id);
  if (twin)
    throw conflict(
      `The key '${twin.name}' bears the same id ${key.minisign_id}, so that people could take one for the other. Make another key.`,
    );
  if (keys.length >= MAX_KEYS)
    throw conflict(
      `The trust bundle lists ${MAX_KEYS} keys, revoked ones included, and takes no more. Set up a new fleet.`,
    );
  return [...keys, key];
};
const inOrder = ({ keyid, public_key, name, person, usage, minisign_id, scope }: TrustKey) => [
  ...[keyid, public_key, name, person, minisign_id, [...usage].sort()],
  ...[scope?.kinds && [...scope.kinds].sort(), scope?.selector],
];

/** The key as it is then, and all of them; null when it is revoked already.
 *  @param id as minisign prints it, or the key id, of which the first 16 digits do
 *  @throws AegisError access.unknown_key, access.key_conflict */
export const withoutKey = (keys: Keys, id: string): { key: TrustKey; keys: TrustKey[] | null } => {
  const found = named(keys, id);
  const { until: _, ...rest } = found;
  const key: TrustKey = { ...rest, state: 'revoked' };
  return { key, keys: found.state === 'revoked' ? null : keys.map((one) => (one === found ? key : one)) };
};

const named = (keys: Keys, id: string): TrustKey => {
  const start = /^[0-9a-f]{16,64}$/i.test(id) ? id.toLowerCase() : null;
  const found = keys.filter(
    ({ keyid, minisign_id }) => minisign_id === id.toUpperCase() || (start !== null && keyid.startsWith(start)),
  );
  const [key] = found;
  if (!key)
    throw new AegisError(
      'access.unknown_key',
      `There is no key '${id.slice(0, 64)}'. 'aegis access keys list' shows each with its id.`,
    );
  if (found.length > 1) throw conflict(`'${id}' names several keys. Give the whole key id of 64 digits.`);
  if (key.usage.includes('serve') && key.state === 'active' && key.until === undefined)
    throw conflict(
      "That is the server's own key: without it no node obeys this server. 'aegis server rotate-key' puts another in its place.",
    );
  return key;
};

/** With another server key; the present ones end after the overlap, without one at once. */
export const withServerKey = (keys: Keys, next: KeyPair, overlapSec: number, nowMs: number): TrustKey[] => {
  const until = new Date(nowMs + overlapSec * 1000).toISOString();
  const before = keys.map((key): TrustKey => {
    if (key.state === 'revoked' || !key.usage.includes('serve')) return key;
    const { until: known, ...rest } = key;
    if (overlapSec === 0) return { ...rest, state: 'revoked' };
    return { ...rest, until: known !== undefined && Date.parse(known) < Date.parse(until) ? known : until };
  });
  const names = new Set(keys.map(({ name }) => name));
  let number = 2;
  while (names.has(`server ${number}`)) number++;
  const added: TrustKey = {
    keyid: next.keyId,
    public_key: next.publicRaw.toString('base64'),
    name: `server ${number}`,
    usage: ['serve'],
    state: 'active',
  };
  return withKey(before, added) ?? before;
};

/** Keys whose end has come are revoked, for good. */
export const settled = (keys: Keys, nowMs: number): TrustKey[] =>
  keys.map(({ until, ...key }): TrustKey => {
    if (until === undefined) return key;
    return Date.parse(until) <= nowMs ? { ...key, state: 'revoked' } : { ...key, until };
  });

/** @throws AegisError access.bad_key, access.bad_root */
export const rootOf = (wanted: Extract<TrustChange['root'], { threshold: number }>): TrustRoot => {
  const persons = wanted.keys.flatMap(({ person }) => (person === undefined ? [] : [person]));
  const root = z.safeParse(TrustRootSchema, {
    threshold: wanted.threshold,
    keys: wanted.keys.map(({ public_key }) => parsePublicKey(public_key).raw.toString('base64')),
    ...(persons.length > 0 ? { persons } : {}),
  });
  if (root.success) return root.data;
  throw new AegisError(
    'access.bad_root',
    `That is no root: ${root.error.issues[0]?.message ?? 'it is not understood'}. Give each key once, a person to all or to none of them, and a threshold of at most as many.`,
  );
};

const conflict = (message: string): AegisError => new AegisError('access.key_conflict', message);
