import type { AbsentBody, PresentBody } from '@aegis/protocol/artifacts/assignment';
import type { StoredDeployment } from './deployments.ts';
import type { Failure } from './failure.ts';
import type { Reason } from './reporting.ts';
import type { DesiredRow } from './repository.ts';

/** What the reconcile loop knows of each artifact, and what follows from it. Pure. */

/** One artifact of the desired state and how far it is. */
export interface Item {
  row: DesiredRow;
  body: PresentBody | AbsentBody | null;
  /** Verified under this generation. */
  ready: StoredDeployment | null;
  failure: Failure | null;
  failures: number;
  /** The bundle is on its way, or could not be had. */
  fetching: 'no' | 'yes' | { error: unknown };
  /** Monotonic; not tried again before. */
  notBefore: number;
  attached: boolean;
  waiting: boolean;
}

export interface ReconcileStatus {
  assigned: number;
  attached: number;
  /** Loaded, but an interface or another target is not there yet. */
  waiting: number;
  failed: number;
  problems: { name: string; code: string; message: string }[];
}

/** There is something to keep true: it is wished, or not yet taken off. */
export const isOpen = ({ row }: Item): boolean => row.present || !row.done;

export const statusOf = (items: readonly Item[], rows: Iterable<DesiredRow>): ReconcileStatus => {
  const open = items.filter(isOpen);
  const failed = open.filter(({ failure }) => failure);
  return {
    assigned: [...rows].filter(({ present }) => present).length,
    attached: open.filter(({ attached, waiting }) => attached && !waiting).length,
    waiting: open.filter(({ waiting }) => waiting).length,
    failed: failed.length,
    problems: failed.map(({ row, failure }) => ({
      name: row.name,
      code: failure?.code ?? '',
      message: failure?.message ?? '',
    })),
  };
};

/** How the key that signed a bundle stands now. */
export type SignerState = 'active' | 'revoked' | 'unknown';

/** What is to be said of an artifact that runs although its signer no longer counts. */
export const degraded = ({ signer, body }: StoredDeployment, state: SignerState): Reason | undefined => {
  if (state === 'active') return undefined;
  return {
    code: state === 'revoked' ? 'artifacts.revoked_signer' : 'artifacts.unknown_signer',
    message: `'${body.name}' ${body.version} runs, but the key '${signer.name}' that signed it is ${state === 'revoked' ? 'revoked' : 'no longer trusted'}: it is not loaded again. Sign it with another key as a new version, or unassign it.`,
  };
};
