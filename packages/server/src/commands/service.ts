/** commands: what operators ask for and what became of it. Owns commands, executions and their output; called by its routes, by
 *  its loop, and by the retirement of a node.
 *  Invariant: an execution moves only by protocol/commands/state.ts, and nothing is answered before it is durable.
 *  It must not know how nodes are enrolled or operators authenticated: who is who arrives with each call. */
import type { KeyPair } from '@aegis/protocol/access/keys';
import type { OperatorKey } from '@aegis/protocol/access/operators';
import { uuidv7Generator } from '@aegis/protocol/ids';
import type { Bus } from '../platform/bus.ts';
import type { Clock } from '../platform/clock.ts';
import type { NodeScope } from '../platform/node-scope.ts';
import type { Storage } from '../tables.ts';
import { cancelService } from './cancel.ts';
import type { ChangeRules } from './changes.ts';
import { type DesiredRevisions, dispatchService, type Standing } from './dispatch.ts';
import { dispatchRepository } from './dispatch-repository.ts';
import { executionsRepository } from './executions-repository.ts';
import { expiryTurn } from './expiry-loop.ts';
import { expiryRepository } from './expiry-repository.ts';
import { listingService } from './listing.ts';
import { listingRepository } from './listing-repository.ts';
import { logLines } from './log-lines.ts';
import type { KeyIdsOf } from './offer-texts.ts';
import { operatorCancels } from './operator-cancels.ts';
import { outputService } from './output.ts';
import { outputRepository } from './output-repository.ts';
import { reportsService } from './reports.ts';
import { retryService } from './retry.ts';
import { scopedParts } from './scoped-part.ts';
import { type PublicKeyOf, reportChecker } from './signed-reports.ts';
import { signedRequests } from './signed-requests.ts';
import { streamBytes } from './stream-bytes.ts';
import { streamHashes } from './stream-hashes.ts';
import { type ResolveTargets, submissionService } from './submission.ts';
import { submissionRepository } from './submission-repository.ts';
import type { Tell } from './told.ts';

export interface CommandLimits {
  redeliverAfterMs: number;
  maxInFlightPerNode: number;
  maxQueuedPerNode: number;
  retentionDays: number;
  lostAfterSec: number;
}

/** What commands need to know of nodes. */
export interface NodeDoor {
  resolve: ResolveTargets;
  /** Those of the nodes that are within. */
  uidsWithin: (uids: readonly string[], within: NodeScope) => Promise<ReadonlySet<string>>;
  /** Names and uids of the nodes within. */
  namesWithin: (within: NodeScope) => Promise<ReadonlySet<string>>;
  publicKeyOf: PublicKeyOf;
  keyIdsOf: KeyIdsOf;
  /** Those of the nodes that are not retired. */
  active: (nodeUids: readonly string[]) => Promise<readonly string[]>;
  /** Last signs of life; nodes never heard of are left out. */
  lastSeen: (nodeUids: readonly string[]) => Promise<ReadonlyMap<string, number>>;
  standing: Standing;
}

export const commandsService = (on: {
  storage: Storage;
  bus: Bus;
  clock: Clock;
  fleet: string;
  serverKey: KeyPair;
  /** Whose signatures count as operators' own now. */
  operators: () => ReadonlyMap<string, OperatorKey>;
  nodes: NodeDoor;
  /** What polls tell of beside commands. */
  desired: DesiredRevisions;
  tell: Tell;
  limits: CommandLimits;
  random?: () => number;
}) => {
  const { storage, bus, clock, limits, nodes } = on;
  const random = on.random ?? Math.random;
  const retentionMs = limits.retentionDays * 24 * 3_600_000;
  const newId = uuidv7Generator(clock.now);
  const rules = (): ChangeRules => ({ now: clock.now(), random, retentionMs });

  const executions = executionsRepository(storage, on.tell);
  const outputRows = outputRepository(storage);
  const listingRows = listingRepository(storage);
  const hashes = streamHashes();
  const output = outputService({ storage, repository: outputRows, hashes, bus, clock });
  const signed = signedRequests({ fleet: on.fleet, operators: on.operators });
  const submission = submissionService({
    storage,
    repository: submissionRepository(storage, on.tell),
    resolve: nodes.resolve,
    uidsWithin: nodes.uidsWithin,
    bus,
    clock,
    newId,
    maxQueuedPerNode: limits.maxQueuedPerNode,
    signed,
  });
  const parts = scopedParts({ repository: listingRows, namesWithin: nodes.namesWithin });
  const cancel = cancelService({
    storage,
    executions,
    listing: listingRows,
    parts,
    signed,
    cancels: operatorCancels(storage),
    clock,
    bus,
    newId,
    rules,
  });

  return {
    /** For tests of what is left behind. */
    bus,
    submission,
    dispatch: dispatchService({
      storage,
      repository: dispatchRepository(storage),
      bus,
      clock,
      signer: { fleet: on.fleet, key: on.serverKey },
      keyIdsOf: nodes.keyIdsOf,
      desired: on.desired,
      standing: nodes.standing,
      limits,
    }),
    output,
    reports: reportsService({
      storage,
      executions,
      outputRows,
      output,
      hashes,
      check: reportChecker(nodes.publicKeyOf),
      bus,
      rules,
    }),
    cancel,
    retry: retryService({ listing: listingRows, parts, submission, clock, active: nodes.active }),
    expiry: expiryTurn({
      storage,
      executions,
      repository: expiryRepository(storage),
      bus,
      rules,
      lostAfterMs: limits.lostAfterSec * 1000,
      lastSeen: nodes.lastSeen,
      wakeLate: cancel.wakeLate,
    }),
    listing: listingService({ repository: listingRows, parts, clock }),
    logLines: logLines({ listing: listingRows, parts, output: outputRows, bus, clock }),
    streamBytes: streamBytes({ listing: listingRows, output: outputRows, bus, clock }),
  };
};
export type CommandsService = ReturnType<typeof commandsService>;
