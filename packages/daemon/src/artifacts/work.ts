import { join } from 'node:path';
import type { Envelope } from '@aegis/protocol/access/dsse';
import { artifactBinary, postStatus } from '@aegis/protocol/artifacts/endpoints';
import type { ArtifactKey } from '@aegis/protocol/artifacts/signature';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import { type Clock, pause } from '../platform/clock.ts';
import { backoff } from '../platform/http/backoff.ts';
import type { HttpClient } from '../platform/http/client.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { Logger } from '../platform/log.ts';
import { bundleStore } from './bundle-store.ts';
import type { KernelEngine } from './deployment.ts';
import { deployments as deploymentsOf } from './deployments.ts';
import { type DesiredVerdict, desiredState } from './desired.ts';
import { kernelFacts } from './kernel-facts.ts';
import type { ReconcileStatus } from './reconcile-item.ts';
import { reconcileLoop } from './reconcile-loop.ts';
import { reporting as reportingOf } from './reporting.ts';
import { type ArtifactsState, artifactsRepository } from './repository.ts';
import { statusLoop } from './status-loop.ts';
import { verifyBundle } from './verify.ts';

/** The part of artifacts that a node without any does not load: desired → fetched → verified → applied → reported, put together. */

export interface ArtifactsLimits {
  maxArtifacts: number;
  maxBytes: number;
  reconcileMs: number;
  /** Between two reports that say nothing new but counters. */
  statusMs: number;
}

export interface WorkOptions {
  dataDir: string;
  journal: Journal;
  state: ArtifactsState;
  client: HttpClient;
  /** Whether this node obeys a directive of desired state. */
  verify(envelope: Envelope): DesiredVerdict;
  /** The keys that may sign artifacts, by the newest trust bundle here. */
  artifactKeys(): readonly ArtifactKey[];
  loadEngine(): Promise<KernelEngine>;
  limits: ArtifactsLimits;
  clock: Clock;
  random: () => number;
  faults: FaultPoints;
  log: Logger;
  signal: AbortSignal;
}

const DOWNLOAD_MS = 120_000;
const HOUR_MS = 3_600_000;
const LAST_CALL_MS = 10_000;

export type ArtifactsWork = Awaited<ReturnType<typeof artifactsWork>>;

export const artifactsWork = async (options: WorkOptions) => {
  const { journal, state, client, artifactKeys, limits, clock, random, faults, log, signal } = options;
  const repository = artifactsRepository(journal);
  const kernel = kernelFacts();

  const status = statusLoop({
    repository,
    journal,
    send: (address, report) => client.call(postStatus, { params: { id: address }, body: report, signal }),
    backoff: backoff({ random }),
    log,
    signal,
  });
  const store = bundleStore({
    folder: join(options.dataDir, 'artifacts'),
    maxBytes: limits.maxBytes,
    download: async ({ artifactId }, sink, until) => {
      await client.call(artifactBinary, { params: { id: artifactId }, sink, timeoutMs: DOWNLOAD_MS, signal: until });
    },
    inUse: () => inUse(),
    faults,
    log,
    signal,
  });
  const deployments = deploymentsOf({
    repository,
    store,
    verify: (bytes, body) => verifyBundle(bytes, body, { keys: artifactKeys(), kernel }),
  });
  const desired = desiredState({
    repository,
    state,
    journal,
    verify: options.verify,
    maxArtifacts: limits.maxArtifacts,
    runningVersion: (name) => deployments.applied.get(name)?.body.version ?? null,
    clock,
    log,
  });
  const inUse = (): ReadonlySet<string> =>
    new Set([
      ...[...deployments.applied.values()].map(({ body }) => body.sha256),
      ...[...desired.rows.values()]
        .filter(({ present }) => present)
        .map(({ body }) => (JSON.parse(body) as { sha256: string }).sha256),
    ]);
  const reporting = reportingOf({
    repository,
    journal,
    release: kernel.release,
    countersMs: limits.statusMs,
    onReport: status.kick,
    clock,
  });

  let engine: Promise<KernelEngine> | null = null;
  /** A load that failed is tried again with the next artifact that needs it: libbpf may have been installed meanwhile. */
  const loadedEngine = async (): Promise<KernelEngine> => {
    engine ??= options.loadEngine();
    try {
      return await engine;
    } catch (cause) {
      engine = null;
      if (cause instanceof AegisError) throw cause;
      throw new AegisError(
        'artifacts.unsupported',
        `This node cannot load eBPF programs (${cause instanceof Error ? cause.message : String(cause)}): it takes Linux and libbpf. Install libbpf (Debian and Ubuntu: libbpf1; Fedora: libbpf), then restart the daemon.`,
        { cause },
      );
    }
  };
  const loop = reconcileLoop({
    desired,
    deployments,
    store,
    reporting,
    engine: loadedEngine,
    signerState: (keyid) => artifactKeys().find((key) => key.keyid === keyid)?.state ?? 'unknown',
    intervalMs: limits.reconcileMs,
    clock,
    random,
    faults,
    log,
    signal,
  });

  const prune = async (): Promise<void> => {
    for (const name of await desired.prune()) {
      reporting.forget(name);
      loop.forget(name);
    }
  };

  await store.sweep();
  await prune();
  let resentAt = clock.monotonic();
  return {
    /** Attaches again what the journal holds and sends what waits there. */
    start: (): void => {
      loop.start();
      status.kick();
    },
    /** Journals what is good of these, and sets about it.
     *  @throws AegisError journal.full | journal.failed: then nothing was taken */
    take: async (directives: readonly unknown[]): Promise<void> => {
      const names = await desired.take(directives);
      loop.changed(names);
      if (names.length > 0) status.kick();
    },
    trustChanged: loop.trustChanged,
    reconcileNow: loop.reconcileNow,
    status: (): ReconcileStatus => loop.status(),
    /** Hourly: forgets old tombstones, and tells everything again to a server that may have been restored from a backup. */
    tidy: async (): Promise<void> => {
      await prune();
      if (clock.monotonic() - resentAt < HOUR_MS / 2) return;
      resentAt = clock.monotonic();
      await journal.lazily('artifact-report', repository.resend);
      status.kick();
    },
    /** After the signal: waits for the call into the kernel that is under way, but not for ever. What is loaded stays. */
    stopped: async (): Promise<void> => {
      const waited = new AbortController();
      const ended = Promise.all([loop.stopped(), status.stopped()]).then(() => true);
      const idle = await Promise.race([ended, pause(LAST_CALL_MS, waited.signal).then(() => false)]);
      waited.abort();
      if (idle && engine) (await engine.catch(() => null))?.close();
    },
  };
};
