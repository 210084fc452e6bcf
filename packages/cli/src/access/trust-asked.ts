import type { KeyPair } from '@aegis/protocol/access/keys';
import type { TrustBundle, TrustKey } from '@aegis/protocol/access/trust-bundle';
import type { TrustChange, TrustDraft } from '@aegis/protocol/access/trust-endpoints';
import { AegisError } from '@aegis/protocol/errors';

/** What is looked at before a key of the root's signs a draft: that it follows from a version which the root signed, and, where the signer
 *  himself said what the change shall be, that it is this change and no other. The server made it, and may have been taken over. */

export interface CheckedDraft {
  before: TrustBundle;
  after: TrustBundle;
  /** Of the root in `before`. */
  rootFingerprint: string;
}

/** @param root fingerprint that the signer knows; absent, nothing says that `before` is of his fleet
 *  @throws AegisError access.untrusted, cli.usage */
export const checkedDraft = async (draft: TrustDraft, root: string | undefined): Promise<CheckedDraft> => {
  const { openTrustBundle, readTrustPayload } = await import('@aegis/protocol/access/trust-bundle');
  const { bundle: before, rootFingerprint } = openTrustBundle(draft.before, null, Number.NEGATIVE_INFINITY);
  if (root !== undefined && root.toLowerCase() !== rootFingerprint)
    throw new AegisError(
      'access.untrusted',
      `This draft is of the root ${rootFingerprint}, not of the one that --root names. Find out who made it.`,
    );
  return { before, after: readTrustPayload(draft.payload), rootFingerprint };
};

export const followsItsBefore = async (draft: TrustDraft, { before, after }: CheckedDraft): Promise<boolean> => {
  const { digestOf } = await import('@aegis/protocol/access/trust-chain');
  return after.version === before.version + 1 && after.previous === digestOf(draft.before);
};

/** @throws AegisError cli.usage */
export const requireFingerprint = (root: string | undefined): void => {
  if (root !== undefined && !/^[0-9a-f]{64}$/i.test(root))
    throw new AegisError('cli.usage', "--root: give the 64 digits that 'aegis access trust show' or init showed.");
};

/** A draft of a change of the root that was just asked for: exactly that, and from a version that is known to be the root's.
 *  @throws AegisError access.untrusted */
export const requireAsked = async (
  draft: TrustDraft,
  wanted: NonNullable<TrustChange['root']>,
  { keys, root, nowMs }: { keys: readonly KeyPair[]; root: string | undefined; nowMs: number },
): Promise<CheckedDraft> => {
  const checked = await checkedDraft(draft, root);
  const { before, after } = checked;
  if (!(await followsItsBefore(draft, checked))) throw another('the version');
  if (root === undefined && !(await isSignedByThese(draft, before, keys)))
    throw new AegisError(
      'access.untrusted',
      `Nobody can say from these keys alone that the root ${checked.rootFingerprint} is in force: compare it with what you wrote down, and give it with --root.`,
    );
  if (after.fleet !== before.fleet) throw another('the fleet');
  if (!(await isRoot(after, wanted))) throw another('the root');
  if (JSON.stringify(after.merges ?? []) !== JSON.stringify(before.merges ?? []))
    throw another('the versions that it also follows');
  if (!areSameKeys(before.keys, after.keys)) throw another('the keys');
  const lifetimeMs = Date.parse(before.expires_at) - Date.parse(before.issued_at);
  if (!(Math.abs(Date.parse(after.expires_at) - nowMs - lifetimeMs) <= DAY_MS)) throw another('the expiry');
  return checked;
};

const DAY_MS = 86_400_000;
const another = (what: string): AegisError =>
  new AegisError(
    'access.untrusted',
    `The server drafted something else than was asked for (${what}): nothing was signed. Somebody may have taken it over.`,
  );

/** Whether whoever holds these keys signed that version: a root that they are only a part of could be one that the server thought of. */
const isSignedByThese = async (draft: TrustDraft, before: TrustBundle, keys: readonly KeyPair[]): Promise<boolean> => {
  const { rootKeyIds, rootSignatures } = await import('@aegis/protocol/access/trust-bundle');
  const { signedBy } = rootSignatures(draft.before, before.root);
  const persons = new Map(rootKeyIds(before.root).map((id, at) => [id, before.root.persons?.[at] ?? id]));
  const own = signedBy.filter((id) => keys.some(({ keyId }) => keyId === id)).map((id) => persons.get(id));
  return new Set(own).size >= before.root.threshold;
};

/** Of a root that the server makes only the form is known. */
const isRoot = async ({ root }: TrustBundle, wanted: NonNullable<TrustChange['root']>): Promise<boolean> => {
  if ('on_server' in wanted) return root.keys.length === 1 && root.threshold === 1 && root.persons === undefined;
  const { rootFingerprintOf } = await import('@aegis/protocol/access/trust-bundle');
  const { parsePublicKey } = await import('@aegis/protocol/access/minisign');
  const persons = wanted.keys.flatMap(({ person }) => (person === undefined ? [] : [person]));
  const asked = {
    threshold: wanted.threshold,
    keys: wanted.keys.map(({ public_key }) => parsePublicKey(public_key).raw.toString('base64')),
    ...(persons.length > 0 ? { persons } : {}),
  };
  return rootFingerprintOf(root) === rootFingerprintOf(asked) && root.threshold === asked.threshold;
};

/** A server's key that is at its end may be revoked by the way. */
const areSameKeys = (before: readonly TrustKey[], after: readonly TrustKey[]): boolean =>
  before.length === after.length &&
  before.every((key, at) => {
    const { until, ...rest } = key;
    const ended: TrustKey = { ...rest, state: 'revoked' };
    const now = after[at];
    return isSameKey(now, key) || (until !== undefined && isSameKey(now, ended));
  });
const isSameKey = (one: TrustKey | undefined, other: TrustKey): boolean => inOrder(one) === inOrder(other);
const inOrder = (key: TrustKey | undefined): string => (key ? JSON.stringify(Object.entries(key).sort()) : '');
