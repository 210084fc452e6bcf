import type { TrustBundle, TrustKey, TrustRoot } from '@aegis/protocol/access/trust-bundle';
import { plainText } from '../ui/plain-text.ts';

/** What a draft would change, for whoever is asked to sign it: every difference, also those that no command of ours makes. */

type IdOf = (key: string) => string;

/** With the whole key id, made from the key itself: names, persons and minisign's ids are what somebody wrote beside it. */
export const keyText = (key: TrustKey, idOf: IdOf): string => {
  const { name, keyid, minisign_id, person, usage, scope, until } = key;
  const id = idOf(key.public_key);
  const listed = id === keyid ? '' : `, listed as ${keyid} and ignored`;
  const minisign = minisign_id === undefined ? '' : `, minisign ${minisign_id}`;
  const kinds = scope?.kinds ? ` kinds=${scope.kinds.join(',')}` : '';
  const selector = scope?.selector === undefined ? '' : ` on=${plainText(scope.selector)}`;
  const whose = person === undefined ? '' : ` of ${plainText(person)}`;
  const end = until === undefined ? '' : ` until ${until}`;
  return `${plainText(name)} (${id}${minisign}${listed})${whose}: ${usage.join(',')}${kinds}${selector}${end}`;
};

export const rootText = ({ threshold, keys, persons }: TrustRoot, idOf: IdOf): string => {
  const each = keys.map((key, at) => `${persons?.[at] === undefined ? '' : `${plainText(persons[at])} `}${idOf(key)}`);
  return `${threshold} of ${keys.length} (${each.join(', ')})`;
};

/** A key that loses something, and nothing else about it: it is revoked, or a server's key is to end, or to end sooner. */
const isLess = (was: TrustKey, key: TrustKey): boolean => {
  const same = ({ state: _, until: __, ...rest }: TrustKey): string => JSON.stringify(Object.entries(rest).sort());
  if (was.state !== 'active' || same(was) !== same(key)) return false;
  if (key.state === 'revoked') return true;
  return key.until !== undefined && (was.until === undefined || Date.parse(key.until) < Date.parse(was.until));
};

export const changesText = async (before: TrustBundle, after: TrustBundle): Promise<string[]> => {
  const { rootFingerprintOf } = await import('@aegis/protocol/access/trust-bundle');
  const idOf = await idsOf();
  const known = new Map(before.keys.map((key) => [key.keyid, key]));
  const keys = after.keys.flatMap((key) => {
    const was = known.get(key.keyid);
    known.delete(key.keyid);
    if (!was) return [`+ ${keyText(key, idOf)}${key.state === 'revoked' ? ' (revoked)' : ''}`];
    if (JSON.stringify(was) === JSON.stringify(key)) return [];
    if (isLess(was, key)) return [`- ${keyText(key, idOf)}`];
    return [`! ${keyText(was, idOf)} (${was.state})`, `  becomes ${keyText(key, idOf)} (${key.state})`];
  });
  const merged = new Set(before.merges?.map(({ version, digest }) => `${version}:${digest}`));
  const merges = (after.merges ?? [])
    .map(({ version, digest }) => `${version}:${digest}`)
    .filter((one) => !merged.has(one));
  const root = rootText(after.root, idOf);
  const isSameRoot = rootFingerprintOf(before.root) === rootFingerprintOf(after.root);
  return [
    `fleet ${plainText(before.fleet)}, version ${before.version} → ${after.version}`,
    ...(before.fleet === after.fleet ? [] : [`! fleet becomes ${plainText(after.fleet)}`]),
    `expires ${plainText(after.expires_at)} (now ${plainText(before.expires_at)})`,
    ...(isSameRoot ? [`root ${root}`] : [`! root ${rootText(before.root, idOf)}`, `  becomes ${root}`]),
    ...keys,
    ...[...known.values()].map((key) => `! ${keyText(key, idOf)} is left out`),
    ...merges.map((head) => `+ follows also ${head}`),
  ];
};

/** Key ids of raw keys in base64; loaded only where they are shown. */
export const idsOf = async (): Promise<IdOf> => {
  const { keyIdOf } = await import('@aegis/protocol/access/keys');
  return (key) => keyIdOf(Buffer.from(key, 'base64'));
};
