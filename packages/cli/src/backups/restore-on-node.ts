import type { Run } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { submitted } from '../api/submitting.ts';
import { withSignature } from '../signing/directives.ts';
import type { KeyFlags } from '../signing/operator-key.ts';
import type { Surroundings } from '../surroundings.ts';
import { plainText } from '../ui/plain-text.ts';
import { type KnownNode, refuseOtherNode, trustedNode } from './known-nodes.ts';
import type { RestoreWish } from './restore-wish.ts';

/** A restore on another machine: the node that is to do it may read the run, and gets what opens it, sealed to its own key. */

export interface NodeRestore {
  run: Run;
  node: string;
  wish: RestoreWish;
  identities: readonly string[];
  known: readonly KnownNode[];
  timeoutSec: number;
}

/** Grants, seals and submits. @throws AegisError backups.untrusted_node and what the server refuses with */
export const submitRestore = async (api: Api, restore: NodeRestore, flags: KeyFlags, around: Surroundings) => {
  const { run, node: name, wish, identities, known, timeoutSec } = restore;
  const maker = trustedNode(known, run);
  const target = await api.call(routes.showNode, { params: { id: name } });
  refuseOtherNode(name, target);
  const another = target.uid !== run.node_uid;
  if (run.encrypted && identities.length === 0)
    throw new AegisError(
      'backups.wrong_identity',
      'This backup is encrypted: give the identity that opens it with --identity FILE. It is sealed to the node on its way.',
    );
  const sealed = identities.length === 0 ? null : await sealFor(target.uid, target.name, identities, known);
  if (another) await api.call(routes.grantRestore, { params: { id: run.run_id }, body: { node: target.uid } });
  const submission = {
    verb: 'backups.restore',
    args: {
      run_id: run.run_id,
      ...wish,
      node_keys: another ? [maker.keyId] : [],
      timeout_sec: timeoutSec,
      ...(sealed === null ? {} : { sealed_identities: sealed }),
    },
    targets: [target.uid],
  };
  return await submitted(api, await withSignature(api, submission, flags, around), around);
};

/** To the key that this user has pinned: the server could name another. */
const sealFor = async (uid: string, name: string, files: readonly string[], known: readonly KnownNode[]) => {
  const pinned = known.find((one) => one.uid === uid);
  if (!pinned?.sealingKey)
    throw new AegisError(
      'backups.untrusted_node',
      `The identity would be sealed to ${plainText(name)}'s key, which you do not trust yet: compare it and run 'aegis nodes trust ${plainText(name)}'.`,
    );
  const { sealedIdentities } = await import('../backups/sealing.ts');
  return sealedIdentities(files, Buffer.from(pinned.sealingKey, 'base64'));
};
