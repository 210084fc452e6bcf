import type { TrustDraft } from '@aegis/protocol/access/trust-endpoints';
import { AegisError } from '@aegis/protocol/errors';
import type { CheckedDraft } from '../access/trust-asked.ts';
import type { Surroundings } from '../surroundings.ts';
import { readKnown, writeKnown } from './known-list.ts';

/** The newest trust bundle that this user signed of each root, in `~/.config/aegis/known_heads`. Who signs has no network: a stolen server
 *  could draft on an older version, and so without the revocations since. A line for each: fingerprint of the root, `version:digest`. */

const LINE = /^([0-9a-f]{64}) ([1-9]\d{0,8}:[0-9a-f]{64})$/;

/** Whether the draft starts at the newest version that is known here.
 *  @param head `version:digest` that the signer says is in force; goes before what is noted
 *  @returns what notes the draft as the newest, to be called before a signature of it is let go
 *  @throws AegisError access.untrusted, config.invalid */
export const startsAtNewest = async (
  { env }: Pick<Surroundings, 'env'>,
  draft: TrustDraft,
  { before, after, rootFingerprint }: CheckedDraft,
  head: string | undefined,
): Promise<() => void> => {
  const { digestOf } = await import('@aegis/protocol/access/trust-chain');
  const { rootFingerprintOf } = await import('@aegis/protocol/access/trust-bundle');
  const [start, end] = [`${before.version}:${digestOf(draft.before)}`, `${after.version}:${digestOf(draft)}`];
  if (head !== undefined && head.toLowerCase() !== start)
    throw new AegisError(
      'access.untrusted',
      `This draft starts at the version ${start}, not at the one that --head names. Make another draft; if it starts there again, the server may show an older version than is in force.`,
    );
  const known = readKnown(env, 'known_heads', LINE);
  const newest = known.entries.get(rootFingerprint);
  const isNewest = newest === undefined || newest === start || newest === end || versionOf(newest) < before.version;
  if (head === undefined && !isNewest)
    throw new AegisError(
      'access.untrusted',
      `This draft starts at version ${before.version}, and you have signed version ${versionOf(newest)} already (${newest}): what that one changed is not in it. If it was never put in force, compare 'trust.head' of a node ('aegis daemon status --json') with ${start} and give that with --head; if it was, the server hides it.`,
    );
  return () => {
    for (const root of [rootFingerprint, rootFingerprintOf(after.root)]) known.entries.set(root, end);
    writeKnown(known, 'The newest trust bundles that this user signed, by root; noted at each signature.');
  };
};
const versionOf = (head: string): number => Number(head.split(':')[0]);

/** @throws AegisError cli.usage */
export const requireHead = (head: string | undefined): void => {
  if (head !== undefined && !/^[1-9]\d{0,8}:[0-9a-f]{64}$/i.test(head))
    throw new AegisError('cli.usage', "--head: give VERSION:DIGEST, as 'aegis access trust show' shows it as head.");
};
