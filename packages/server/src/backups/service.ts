/** backups: what is backed up, by whom, where to and when, and what became of it. Owns configurations, who carries them out (as desired
 *  state), destinations with their credentials, runs and their logs; called by its routes, by the nodes' polls and by what happens to nodes.
 *  Invariant: a generation is one text; a good run is proven by its node's signature and by the objects themselves; a run stays where it was
 *  written. It must not know how nodes are enrolled or polls wait, nor hand a credential to anyone but the node that it is sealed to. */
import type { Clock } from '../platform/clock.ts';
import type { Log } from '../platform/log.ts';
import { oneAtATime } from '../platform/one-at-a-time.ts';
import type { Tell } from '../platform/told.ts';
import type { Storage, Tx } from '../tables.ts';
import { agentRunsService } from './agents/service.ts';
import { assignmentChanges } from './assignments.ts';
import { assignmentsRepository } from './assignments-repository.ts';
import { auditService } from './audit.ts';
import { configViews } from './config-views.ts';
import { configsService } from './configs.ts';
import { configsRepository } from './configs-repository.ts';
import { type CredentialVault, credentialVault, type KeyFile } from './credentials.ts';
import { type DestinationsRepository, destinationsRepository } from './destinations-repository.ts';
import { directivesFor, type Signer } from './directives.ts';
import { logService } from './log.ts';
import { lossDetection } from './loss-loop.ts';
import type { DesiredDoor, NodeDoor } from './node-door.ts';
import { removeRunFolder } from './own-files/folder.ts';
import { oneAttempt } from './own-files/one-run.ts';
import { type OwnFilesSettings, ownFileRules } from './own-files/rules.ts';
import { ownSchedule } from './own-files/schedule-loop.ts';
import { ownRunsService } from './own-files/service.ts';
import { storeInThread } from './own-files/thread.ts';
import { reconciler } from './reconcile.ts';
import { reportsService } from './reports.ts';
import { reportsRepository } from './reports-repository.ts';
import { retireNode } from './retirement.ts';
import { runEndService } from './run-end.ts';
import { runFolderOf } from './run-views.ts';
import { runsService } from './runs.ts';
import { runsListing } from './runs-listing.ts';
import { runsPruning } from './runs-pruning.ts';
import { type RunsRepository, runsRepository } from './runs-repository.ts';
import { type S3Settings, s3Reach } from './s3-reach.ts';
import { sweepService } from './sweep.ts';
import { type AlertSettings, upkeepService } from './upkeep.ts';
import { uploadsRepository } from './uploads-repository.ts';

export interface BackupLimits {
  maxConfigs: number;
  maxConfigsPerNode: number;
  /** Records of runs, of one node under one configuration. */
  maxRunsPerNode: number;
  maxUnderWayPerNode: number;
  logLinesPerRun: number;
  logLinesPerNode: number;
  logDays: number;
  lostAfterMs: number;
  offlineLostAfterMs: number;
}

/** The domain's rows and secrets, for its own parts. */
export interface BackupParts {
  storage: Storage;
  runs: RunsRepository;
  destinations: DestinationsRepository;
  vault: CredentialVault;
  audit: ReturnType<typeof auditService>;
  nodes: NodeDoor;
  serverKeyOf: (keyId: string) => Buffer | null;
  clock: Clock;
  newId: () => string;
  tell: Tell;
  log: Log;
}

export const backupsService = (on: {
  storage: Storage;
  dataDir: string;
  keyFile: KeyFile;
  /** Its key signs what the server makes of its own files as well; `keyOf` knows those that it had before. */
  signer: Signer & { keyOf(keyId: string): Buffer | null };
  nodes: NodeDoor;
  desired: DesiredDoor;
  s3: S3Settings;
  alerts: AlertSettings;
  ownFiles: Omit<OwnFilesSettings, 'dataDir'>;
  clock: Clock;
  newId: () => string;
  tell: Tell;
  log: Log;
  limits: BackupLimits;
}) => {
  const { storage, nodes, desired, clock, newId, log, limits } = on;
  const configs = configsRepository(storage);
  const destinations = destinationsRepository(storage);
  const assignments = assignmentsRepository(storage);
  const reports = reportsRepository(storage);
  const runs = runsRepository(storage);
  const vault = credentialVault(on.dataDir, on.keyFile);
  const audit = auditService({ storage, clock, newId, log });
  const parts: BackupParts = {
    storage,
    runs,
    destinations,
    vault,
    audit,
    nodes,
    serverKeyOf: on.signer.keyOf,
    clock,
    newId,
    tell: on.tell,
    log,
  };
  const s3 = s3Reach(parts, on.s3);
  const { access, probe } = s3;
  const inTurn = oneAtATime();
  const lines = logService({
    storage,
    clock,
    newId,
    maxPerRun: limits.logLinesPerRun,
    maxPerNode: limits.logLinesPerNode,
  });
  const changes = assignmentChanges({
    assignments,
    desired,
    nodes,
    newId,
    maxPerNode: limits.maxConfigsPerNode,
  });
  const began = runsService({
    runs,
    configs,
    destinations,
    assignments,
    access,
    pruning: runsPruning({ log: lines, clock, maxPerNode: limits.maxRunsPerNode }),
    log: lines,
    nodes,
    tell: on.tell,
    clock,
    maxUnderWayPerNode: limits.maxUnderWayPerNode,
  });
  const ownRules = ownFileRules({ ...on.ownFiles, dataDir: on.dataDir });
  const configuring = configsService({
    configs,
    destinations,
    changes,
    views: configViews({ destinations, assignments, runs, nodes }),
    nodes,
    desired,
    vault,
    probe,
    checkOwn: ownRules.check,
    inTurn,
    clock,
    newId,
    maxConfigs: limits.maxConfigs,
  });
  const upkeep = upkeepService(parts, {
    configs,
    findConfig: configuring.find,
    stores: s3.stores,
    lines,
    assignments,
    removeOwn: async ({ destination }, run) => {
      if (destination.kind === 'file') await removeRunFolder(destination.path, runFolderOf(destination, run));
    },
    alerts: on.alerts,
    verify: s3.verification.verify,
  });
  const own = ownRunsService({
    runs,
    destinations,
    began,
    attempt: oneAttempt({
      rules: ownRules,
      storeArchive: storeInThread,
      stores: s3.stores,
      access,
      vault,
      bounds: on.s3.bounds,
      key: on.signer.key,
      clock,
    }),
    keyId: () => on.signer.key.keyId,
    after: upkeep.after,
    clock,
    newId,
    log,
  });
  return {
    parts,
    own,
    ownSchedule: ownSchedule({ storage, configs, own, clock, log }),
    s3,
    lines,
    upkeep,
    configs: configuring,
    reconciler: reconciler({ configs, assignments, changes, nodes, desired, inTurn, clock, log }),
    directivesFor: directivesFor({ assignments, signer: on.signer, clock, newId }),
    report: reportsService({ reports, configs, assignments, changes, desired, clock }),
    runs: began,
    agents: agentRunsService({
      runs,
      began,
      configs,
      assignments,
      destinations,
      stores: s3.stores,
      vault,
      uploads: uploadsRepository(storage),
      attemptOver: s3.uploads.attemptOver,
      lines,
      after: upkeep.after,
      clock,
      newId,
    }),
    endRun: runEndService({
      runs,
      access,
      nodes,
      audit,
      placeOfRun: began.placeOfRun,
      forgetFor: upkeep.retention.forgetFor,
      after: upkeep.after,
      clock,
    }),
    listing: runsListing({ runs, configs, destinations, assignments, reports, log: lines, nodes, clock }),
    loss: lossDetection({
      runs,
      nodes,
      after: upkeep.after,
      rules: { lostAfterMs: limits.lostAfterMs, offlineLostAfterMs: limits.offlineLostAfterMs },
      clock,
      log,
    }),
    sweep: sweepService({ storage, destinations, clock, log, logDays: limits.logDays }),
    /** Part of the transaction that retires a node, which holds its desired state. */
    nodeRetired: (tx: Tx, uid: string): Promise<void> => retireNode(tx, uid, clock.now()),
  };
};
export type BackupsService = ReturnType<typeof backupsService>;
