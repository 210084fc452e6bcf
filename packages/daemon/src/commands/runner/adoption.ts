import { lstatSync } from 'node:fs';
import {
  type Claim,
  type ExecutionStatus,
  readClaim,
  readStatus,
  supervisorAlive,
} from '@aegis/native/execution-folder';

/** What becomes of an execution that has no report yet, from what its folder says. The same table serves after a restart and
 *  while it runs: the folder is the truth in both. */

export interface FolderView {
  /** A supervisor holds the lock. */
  alive: boolean;
  claim: Claim | null;
  /** `damaged`: there is one, but not as aegis-exec writes it. */
  status: ExecutionStatus | 'damaged' | null;
}

export type NextStep =
  /** The supervisor wrote how it ended. */
  | { do: 'finish'; status: ExecutionStatus }
  /** A supervisor works on it: watch. */
  | { do: 'follow' }
  /** Nobody ever claimed it: (ask to) start it; a second supervisor would find the claim taken. */
  | { do: 'start' }
  /** Nobody claimed it and nobody may any more: void the claim, then it has ended like this. */
  | { do: 'give-up'; as: 'cancelled' | 'expired' }
  /** Given up before, only the report is missing. */
  | { do: 'given-up'; as: 'cancelled' | 'expired' | 'failed' }
  | { do: 'lost'; startedAtMs: number | null; why: string };

export interface KnownOfExecution {
  /** Boot id under which the launcher may have been asked; null: never. */
  handedBoot: string | null;
  /** Its folder was made under that boot id. */
  begun: boolean;
  cancelAsked: boolean;
  expired: boolean;
}

export const decideNext = (known: KnownOfExecution, folder: FolderView | null, bootId: string): NextStep => {
  const as = known.cancelAsked ? 'cancelled' : 'expired';
  const mayNot = known.cancelAsked || known.expired;
  // The claim was not synced, nor was the folder: what is missing after a power cut may have been there.
  const rebooted = known.handedBoot !== null && known.handedBoot !== bootId;
  if (!folder) {
    if (rebooted) return { do: 'lost', startedAtMs: null, why: REBOOTED };
    if (known.begun)
      return {
        do: 'lost',
        startedAtMs: null,
        why: 'Its folder on the node is gone, so nobody can know whether it ran. It is not repeated.',
      };
    return mayNot ? { do: 'given-up', as } : { do: 'start' };
  }
  const { alive, claim, status } = folder;
  if (status && status !== 'damaged') return { do: 'finish', status };
  if (claim?.kind === 'void') return { do: 'given-up', as: mayNot ? as : 'failed' };
  if (alive) return { do: 'follow' };
  if (claim === null && !rebooted) return mayNot ? { do: 'give-up', as } : { do: 'start' };
  const startedHere = claim?.kind === 'started' && claim.bootId === bootId;
  const why = !startedHere
    ? REBOOTED
    : status === 'damaged'
      ? 'The record of how the command ended is damaged. It is not repeated.'
      : "The command's supervisor was killed, so how it ended is not known. It is not repeated unless it was submitted at-least-once.";
  return { do: 'lost', startedAtMs: claim?.kind === 'started' ? claim.startedAtMs : null, why };
};

const REBOOTED =
  'The node restarted before it was known how the command ended. It is not repeated unless it was submitted at-least-once.';

/** Null when there is no folder. Liveness is read first: a supervisor that was seen dead has written all that it ever will. */
export const viewFolder = (dir: string): FolderView | null => {
  if (!lstatSync(dir, { throwIfNoEntry: false })?.isDirectory()) return null;
  const alive = supervisorAlive(dir);
  const claim = readClaim(dir);
  let status: FolderView['status'];
  try {
    status = readStatus(dir);
  } catch {
    status = 'damaged';
  }
  return { alive, claim, status };
};
