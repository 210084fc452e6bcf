import type { Directive } from '@aegis/protocol/access/directive';
import type { Envelope } from '@aegis/protocol/access/dsse';
import { AegisError } from '@aegis/protocol/errors';
import type { NodeWish } from '@aegis/protocol/nodes/endpoints';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { plainText } from '../ui/plain-text.ts';
import type { OperatorSigner } from './operator-key.ts';

/** Desired state under an operator's own signature: the server makes the wish, with its generation for each node; here it is compared with
 *  what was asked for, and signed. What another operator has signed already gets this signature beside theirs. */

/** Of a clock that is ahead, as nodes allow it. */
const FUTURE_TOLERANCE_MS = 5 * 60_000;
const SEVEN_DAYS_MS = 7 * 24 * 3_600_000;
/** No node was ever changed so often: a server that names more wants the object's numbers used up. */
const MAX_GENERATION = 1_000_000_000;
const AT_ONCE = 8;

export interface SigningOf {
  kind: 'artifacts.assign' | 'backups.config';
  objectId: string;
  /** What the operator named; each node judges by it whether it is meant. */
  targets: readonly string[];
  /** Throws, or answers false, where the wish is not what the operator asked for. */
  isMeant(body: unknown, wish: NodeWish): boolean | Promise<boolean>;
}

/** Answers how many wishes were signed. @throws AegisError access.untrusted where the server wishes for another thing than was asked for */
export const signWishesOf = async (
  api: Api,
  signer: OperatorSigner,
  nodeUids: readonly string[],
  what: SigningOf,
  now: number,
): Promise<number> => {
  const { selectorOfTargets } = await import('@aegis/protocol/access/operators');
  const selector = selectorOfTargets(what.targets);
  let signed = 0;
  const uids = [...nodeUids];
  const work = async (): Promise<void> => {
    for (let uid = uids.shift(); uid !== undefined; uid = uids.shift()) {
      const { node, wishes } = await api.call(routes.showWishes, { params: { id: uid } });
      const wish = wishes.find(({ kind, object_id }) => kind === what.kind && object_id === what.objectId);
      if (!wish) continue;
      if (!(await what.isMeant(wish.body, wish)))
        throw new AegisError(
          'access.untrusted',
          `What the server would have you sign for ${plainText(node)} is not what you asked for: nothing was signed there. Find out who answers at the server.`,
        );
      const envelope = await signWish(signer, wish, selector, now);
      if (envelope) await api.call(routes.signWishes, { params: { id: uid }, body: { directives: [envelope] } });
      signed++;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return signed;
};

/** Null when it carries this key's signature already, for long enough. */
export const signWish = async (
  signer: OperatorSigner,
  wish: NodeWish,
  selector: string,
  now: number,
): Promise<Envelope | null> => {
  if (wish.generation > MAX_GENERATION)
    throw new AegisError('access.untrusted', 'The server names a generation that no change ever reached: not signed.');
  const before = wish.operator_directive;
  if (before && (await isSignedBefore(before, signer, wish, selector, now))) {
    if (before.signatures.some(({ keyid }) => keyid === signer.key.keyId)) return null;
    return await alsoSigned(before, signer);
  }
  const { uuidv7Generator } = await import('@aegis/protocol/ids');
  return await signer.sign({
    fleet: signer.fleet,
    id: uuidv7Generator(() => now)(),
    kind: wish.kind,
    targets: { selector },
    issued_at: new Date(now).toISOString(),
    expires_at: new Date(now + SEVEN_DAYS_MS).toISOString(),
    max_attempts: 1,
    object_id: wish.object_id,
    generation: wish.generation,
    body: wish.body,
  });
};

/** Another operator's own, of this very wish and for as long as we would say: only beside such a signature goes ours. */
const isSignedBefore = async (
  before: Envelope,
  { operators, fleet }: OperatorSigner,
  wish: NodeWish,
  selector: string,
  now: number,
): Promise<boolean> => {
  const { openOperatorDirective } = await import('@aegis/protocol/access/operators');
  let theirs: Directive;
  try {
    theirs = openOperatorDirective(before, operators).directive;
  } catch {
    return false; // of nobody, or not readable: the wish is signed anew
  }
  const [issuedAt, expiresAt] = [Date.parse(theirs.issued_at), Date.parse(theirs.expires_at)];
  return (
    theirs.fleet === fleet &&
    theirs.kind === wish.kind &&
    theirs.object_id === wish.object_id &&
    theirs.generation === wish.generation &&
    'selector' in theirs.targets &&
    theirs.targets.selector === selector &&
    theirs.not_before === undefined &&
    theirs.max_attempts === 1 &&
    issuedAt <= now + FUTURE_TOLERANCE_MS &&
    expiresAt - issuedAt <= SEVEN_DAYS_MS &&
    expiresAt > now + SEVEN_DAYS_MS / 7 &&
    JSON.stringify(theirs.body) === JSON.stringify(wish.body)
  );
};

/** Over the bytes as they are: made anew, they could differ. */
export const alsoSigned = async (envelope: Envelope, { key }: Pick<OperatorSigner, 'key'>): Promise<Envelope> => {
  const { preAuthEncoding } = await import('@aegis/protocol/access/dsse');
  const { sign } = await import('node:crypto');
  const message = preAuthEncoding(envelope.payloadType, Buffer.from(envelope.payload, 'base64'));
  const signature = { keyid: key.keyId, sig: sign(null, message, key.privateKey).toString('base64') };
  return { ...envelope, signatures: [...envelope.signatures, signature] };
};
