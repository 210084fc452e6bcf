/** artifacts: the registry of eBPF artifacts and who is to run them. Owns bundles, assignments as desired state, and what nodes
 *  report of both; called by its routes, by the nodes' polls (is there something newer?) and by the retirement of a node.
 *  Invariant: a version names one bundle for ever, and a generation one wish; what a node obeys is signed from rows alone.
 *  It must not know how nodes are enrolled, keys are managed or polls wait: that arrives as parameters. */
import type { Blobs } from '../platform/blobs.ts';
import type { Clock } from '../platform/clock.ts';
import { type OneAtATime, oneAtATime } from '../platform/one-at-a-time.ts';
import type { Tell } from '../platform/told.ts';
import type { Storage, Tx } from '../tables.ts';
import { assignService } from './assign.ts';
import { assignmentsRepository } from './assignments-repository.ts';
import { desiredState } from './desired.ts';
import { desiredChanges } from './desired-changes.ts';
import { type Signer, templates } from './directives.ts';
import { forHostService } from './for-host.ts';
import { libraryService } from './library.ts';
import type { NodeDoor } from './node-door.ts';
import { publisher, type ReadBundle } from './publish.ts';
import { artifactsRepository } from './repository.ts';
import { signers, type Trust } from './signers.ts';
import { statusService } from './status.ts';
import { statusRepository } from './status-repository.ts';

export interface ArtifactLimits {
  maxArtifacts: number;
  maxAssignmentsPerNode: number;
}

export const artifactsService = (on: {
  storage: Storage;
  blobs: Blobs;
  readBundle: ReadBundle;
  trust: Trust;
  signer: Signer;
  nodes: NodeDoor;
  /** Lets the node's waiting poll look again. */
  wake: (uid: string) => void;
  /** Tells of each node that another server process has woken; null: it may have woken any. */
  onWoken: (listener: (uid: string | null) => void) => void;
  clock: Clock;
  newId: () => string;
  takesUnsigned: boolean;
  tell: Tell;
  /** How long a node's revision may be taken from memory: another server process may change it. */
  keepMs: number;
  limits: ArtifactLimits;
}) => {
  const { storage, blobs, clock, newId, nodes } = on;
  const repository = artifactsRepository(storage);
  const assignments = assignmentsRepository(storage);
  const known = signers(on.trust);
  const here = oneAtATime();
  /** Between a blob and the row that names it no other process may sweep. */
  const inTurn: OneAtATime = (work) => here(() => storage.alone('artifacts.blobs', work));
  const desired = desiredState({
    repository: assignments,
    clock,
    keepMs: on.keepMs,
    wake: on.wake,
    onWoken: on.onWoken,
    activeUids: nodes.activeUids,
  });
  const changes = desiredChanges({
    assignments,
    artifacts: repository,
    newId,
    maxPerNode: on.limits.maxAssignmentsPerNode,
  });
  const library = libraryService({ repository, assignments, blobs, signers: known, inTurn, clock });

  return {
    library,
    desired,
    publish: publisher({
      repository,
      assignments,
      changes,
      desired,
      blobs,
      signers: known,
      readBundle: on.readBundle,
      inTurn,
      clock,
      newId,
      takesUnsigned: on.takesUnsigned,
      maxArtifacts: on.limits.maxArtifacts,
    }),
    assign: assignService({
      artifacts: repository,
      assignments,
      changes,
      desired,
      library,
      signers: known,
      nodes,
      clock,
    }),
    ...forHostService({
      assignments,
      templateOf: templates(repository.manifestOf),
      signers: known,
      signer: on.signer,
      named: nodes.named,
      clock,
      newId,
    }),
    status: statusService({
      repository: statusRepository(storage),
      assignments,
      changes,
      desired,
      library,
      nodes,
      tell: on.tell,
      clock,
    }),
    /** Part of the transaction that retires a node. */
    nodeRetired: async (tx: Tx, uid: string): Promise<void> => {
      await assignments.forget(tx, uid);
      desired.forget(uid);
    },
  };
};
export type ArtifactsService = ReturnType<typeof artifactsService>;
