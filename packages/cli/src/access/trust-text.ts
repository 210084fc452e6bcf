import type { TrustBundle, TrustKey, TrustRoot } from '@aegis/protocol/access/trust-bundle';
import { plainText } from '../ui/plain-text.ts';

/** What a draft would change, for whoever is asked to sign it: every difference, also those that no command of ours makes. */

export const keyText = ({ name, keyid, minisign_id, person, usage, scope, until }: TrustKey): string => {
  const kinds = scope?.kinds ? ` kinds=${scope.kinds.join(',')}` : '';
  const selector = scope?.selector === undefined ? '' : ` on=${plainText(scope.selector)}`;
  const whose = person === undefined ? '' : ` of ${plainText(person)}`;
  const end = until === undefined ? '' : ` until ${until}`;
  return `${plainText(name)} (${minisign_id ?? keyid.slice(0, 16)})${whose}: ${usage.join(',')}${kinds}${selector}${end}`;
};

export const rootText = ({ threshold, keys, persons }: TrustRoot, idOf: (key: string) => string): string => {
  const each = keys.map(
    (key, at) => `${persons?.[at] === undefined ? '' : `${plainText(persons[at])} `}${idOf(key).slice(0, 16)}`,
  );
  return `${threshold} of ${keys.length} (${each.join(', ')})`;
};

export const changesText = (before: TrustBundle, after: TrustBundle, idOf: (key: string) => string): string[] => {
  const known = new Map(before.keys.map((key) => [key.keyid, key]));
  const keys = after.keys.flatMap((key) => {
    const was = known.get(key.keyid);
    known.delete(key.keyid);
    if (!was) return [`+ ${keyText(key)}${key.state === 'revoked' ? ' (revoked)' : ''}`];
    if (JSON.stringify(was) === JSON.stringify(key)) return [];
    if (was.state === 'active' && key.state === 'revoked') return [`- ${keyText(key)}`];
    return [`! ${keyText(was)} (${was.state})`, `  becomes ${keyText(key)} (${key.state})`];
  });
  const merged = new Set(before.merges?.map(({ version, digest }) => `${version}:${digest}`));
  const merges = (after.merges ?? [])
    .map(({ version, digest }) => `${version}:${digest}`)
    .filter((one) => !merged.has(one));
  const [from, to] = [rootText(before.root, idOf), rootText(after.root, idOf)];
  return [
    `fleet ${plainText(before.fleet)}, version ${before.version} → ${after.version}`,
    ...(before.fleet === after.fleet ? [] : [`! fleet becomes ${plainText(after.fleet)}`]),
    `expires ${plainText(after.expires_at)} (now ${plainText(before.expires_at)})`,
    ...(from === to ? [`root ${to}`] : [`! root ${from}`, `  becomes ${to}`]),
    ...keys,
    ...[...known.values()].map((key) => `! ${keyText(key)} is left out`),
    ...merges.map((head) => `+ follows also ${head}`),
  ];
};

/** Key ids of raw keys in base64; loaded only where they are shown. */
export const idsOf = async (): Promise<(key: string) => string> => {
  const { keyIdOf } = await import('@aegis/protocol/access/keys');
  return (key) => keyIdOf(Buffer.from(key, 'base64'));
};
