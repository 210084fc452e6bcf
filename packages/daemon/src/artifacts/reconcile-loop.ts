import { AssignmentBody, type PresentBody } from '@aegis/protocol/artifacts/assignment';
import { AegisError, type ErrorCode } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import type { Logger } from '../platform/log.ts';
import type { BundleStore } from './bundle-store.ts';
import type { EngineState, KernelEngine } from './deployment.ts';
import type { Bytes, Deployments, StoredDeployment } from './deployments.ts';
import type { Desired } from './desired.ts';
import { failureOf, restMs } from './failure.ts';
import { degraded, type Item, isOpen, type ReconcileStatus, type SignerState, statusOf } from './reconcile-item.ts';
import type { Reporting } from './reporting.ts';
import type { DesiredRow } from './repository.ts';
import { checkBeforeFetch } from './verify.ts';

/** The one loop that makes the kernel equal to what is wished: artifact after artifact, when one changes, at every tick, and when told.
 *  What the kernel says counts, not what was done before. A version that fails leaves the one before it running, or puts it back. */

export interface ReconcileOptions {
  desired: Desired;
  deployments: Deployments;
  store: BundleStore;
  reporting: Reporting;
  /** Loads it at the first call. */
  engine(): Promise<KernelEngine>;
  /** How the key that signed a bundle stands now. */
  signerState(keyid: string): SignerState;
  intervalMs: number;
  clock: Clock;
  random: () => number;
  faults: FaultPoints;
  log: Logger;
  signal: AbortSignal;
}

export type ReconcileLoop = ReturnType<typeof reconcileLoop>;

export const reconcileLoop = (options: ReconcileOptions) => {
  const { desired, deployments, store, reporting, clock, random, faults, log, signal } = options;
  const items = new Map<string, Item>();
  const due = new Set<string>();
  let sweepDue = false;
  let engineUsed = false;
  let running: Promise<void> | null = null;
  let timer: NodeJS.Timeout | null = null;
  const idleWaiters: (() => void)[] = [];

  const itemOf = (row: DesiredRow): Item => {
    const known = items.get(row.name);
    if (known && known.row.generation === row.generation) return known;
    const parsed = z.safeParse(AssignmentBody, JSON.parse(row.body));
    const body = parsed.success ? parsed.data : null;
    const item: Item = {
      row,
      body,
      ready: body?.state === 'present' ? deployments.known(body, row.generation) : null,
      failure: null,
      failures: 0,
      fetching: 'no',
      notBefore: 0,
      attached: known?.attached ?? false,
      waiting: false,
    };
    items.set(row.name, item);
    return item;
  };

  const engine = async (): Promise<KernelEngine> => {
    const loaded = await options.engine();
    engineUsed = true;
    return loaded;
  };
  /** The engine's calls, with a point before and after each at which the process may die. */
  const apply = async (stored: StoredDeployment, bytes: Bytes | null): Promise<EngineState> => {
    const fresh = { bytes };
    const kernel = await engine();
    faults.at('daemon.before-deploy.apply');
    try {
      return await kernel.apply(deployments.deploymentOf(stored, fresh));
    } finally {
      fresh.bytes = null; // whoever keeps the deployment does not keep its objects
      faults.at('daemon.after-deploy.apply');
    }
  };

  /** Beside the loop: what it brings is taken up by the loop. */
  const fetchBundle = (item: Item, { artifact_id: artifactId, sha256, size }: PresentBody): void => {
    if (item.fetching === 'yes') return;
    const settled = (fetching: Item['fetching']): void => {
      Object.assign(item, { fetching, notBefore: 0 });
      kick([item.row.name]);
    };
    item.fetching = 'yes';
    item.notBefore = Number.POSITIVE_INFINITY;
    store.fetch({ artifactId, sha256, size }).then(
      () => settled('no'),
      (error: unknown) => settled({ error }),
    );
  };

  const reconcilePresent = async (item: Item, body: PresentBody): Promise<void> => {
    if (item.failure && clock.monotonic() < item.notBefore) return keepPrevious(item);
    let state: EngineState;
    let ready: StoredDeployment;
    try {
      if (typeof item.fetching === 'object') {
        const { error } = item.fetching;
        item.fetching = 'no';
        throw error;
      }
      let bytes: Bytes | null = null;
      if (!item.ready) {
        checkBeforeFetch(body);
        if (!store.has(body.sha256)) {
          fetchBundle(item, body);
          return keepPrevious(item);
        }
        const prepared = await deployments.prepare(body, item.row.generation);
        item.ready = prepared.stored;
        bytes = prepared.bytes;
      }
      ready = item.ready;
      state = await apply(ready, bytes);
    } catch (error) {
      return fail(item, error);
    }
    await succeeded(item, ready, state);
  };

  const succeeded = async (item: Item, stored: StoredDeployment, state: EngineState): Promise<void> => {
    const { name, generation } = item.row;
    const was = deployments.applied.get(name);
    const { version, artifact_id: address } = stored.body;
    const saying = {
      name,
      generation,
      version,
      state: state.waiting ? 'loaded' : 'attached',
      engine: state,
      reason: degraded(stored, options.signerState(stored.signer.keyid)) ?? desired.refusalOf(name),
      address,
    } as const;
    if (was?.generation === generation && was.revision === stored.revision) await reporting.say(saying);
    else {
      await reporting.say(saying, {
        label: 'attached',
        change: () => deployments.putApplied(stored, clock.now()),
      });
      deployments.afterApplied(stored);
      sweepDue = true; // the former version's bundle
      log.info({ artifact: name, version, generation }, state.waiting ? 'loaded an artifact' : 'attached an artifact');
      retryBusy();
    }
    Object.assign(item, { failure: null, failures: 0, attached: true, waiting: state.waiting });
  };

  const fail = async (item: Item, error: unknown): Promise<void> => {
    const failure = failureOf(error);
    const { body } = item;
    if (failure.code === 'artifacts.not_here' && body?.state === 'present') {
      item.ready = null; // the next try fetches it
      item.failures = 0;
    }
    const restingMs = restMs(failure, item.failures, random);
    const again = item.failure?.code === failure.code && item.failure.message === failure.message;
    Object.assign(item, { failure, failures: item.failures + 1, notBefore: clock.monotonic() + restingMs });
    const fields = { artifact: item.row.name, generation: item.row.generation, code: failure.code };
    if (!again) log.warn({ ...fields, err: failure.cause, retry_ms: Math.round(restingMs) }, failure.message);
    await keepPrevious(item);
    schedule();
  };

  /** While the wished version is not there or failed: the one before it goes on, and that is what is told. */
  const keepPrevious = async (item: Item): Promise<void> => {
    const { row, body, failure } = item;
    const before = deployments.applied.get(row.name);
    const wanted = body?.state === 'present' ? body : null;
    // The same revision has just been tried: the engine put back what it could.
    const other = row.present && before && before.revision !== item.ready?.revision ? before : null;
    let state: EngineState | null = null;
    if (other) {
      try {
        state = await apply(other, null);
      } catch (error) {
        log.error({ err: error, artifact: row.name }, 'cannot keep the version before a failed one running');
      }
    }
    item.attached = state !== null;
    item.waiting = state?.waiting ?? false;
    if (!failure) return; // on its way
    const { code, message, verifierLog } = failure;
    await reporting.say({
      name: row.name,
      generation: row.generation,
      version: state && other ? other.body.version : (wanted?.version ?? null),
      state: state ? (state.waiting ? 'loaded' : 'attached') : 'failed',
      engine: state,
      reason: { code, message, ...(state && wanted ? { version: wanted.version } : {}) },
      verifierLog,
      address: wanted?.artifact_id ?? row.name,
    });
  };

  const reconcileAbsent = async (item: Item): Promise<void> => {
    const { name, generation } = item.row;
    if (item.row.done) return;
    if (item.failure && clock.monotonic() < item.notBefore) return;
    try {
      const kernel = await engine();
      faults.at('daemon.before-deploy.remove');
      await kernel.remove(name);
      faults.at('daemon.after-deploy.remove');
    } catch (error) {
      // Where nothing was ever loaded, and nothing can be, nothing is left.
      if (deployments.applied.has(name) || failureOf(error).code !== 'artifacts.unsupported') return fail(item, error);
    }
    // By name: which version the server's tombstone is of, this node may never have learnt.
    await reporting.say(
      { name, generation, version: null, state: 'detached', engine: null, address: name },
      {
        label: 'detached',
        change: () => {
          deployments.removeApplied(name);
          desired.setDone(name, generation);
        },
      },
    );
    deployments.afterRemoved(name);
    desired.afterDone(name, generation);
    Object.assign(item, { failure: null, failures: 0, attached: false, waiting: false });
    log.info({ artifact: name, generation }, 'took an artifact off');
    sweepDue = true;
    retryBusy();
  };

  const reconcile = async (name: string): Promise<void> => {
    const row = desired.rows.get(name);
    if (!row) return void items.delete(name);
    const item = itemOf(row);
    item.row = row;
    if (!row.present) return reconcileAbsent(item);
    if (item.body?.state === 'present') return reconcilePresent(item, item.body);
    const message = `This release cannot read the assignment of '${name}': give server and node the same release.`;
    return fail(item, new AegisError('access.bad_directive', message));
  };

  const sweep = async (): Promise<void> => {
    sweepDue = false;
    const names = [...desired.rows.values()].filter((row) => row.present || !row.done).map(({ name }) => name);
    const ours = [...new Set([...names, ...deployments.applied.keys()])];
    if (ours.length === 0 && !engineUsed) return;
    try {
      const kernel = await engine();
      faults.at('daemon.before-deploy.sweep');
      const removed = await kernel.sweep(ours);
      faults.at('daemon.after-deploy.sweep');
      if (removed.length > 0) log.warn({ removed }, 'removed pins that belonged to no artifact');
    } catch (error) {
      if (failureOf(error).code !== 'artifacts.unsupported') log.error({ err: error }, 'cannot sweep the pins');
    }
    await store.removeUnused();
  };

  const run = async (): Promise<void> => {
    while (!signal.aborted) {
      const [name] = due;
      if (name !== undefined) {
        due.delete(name);
        await reconcile(name).catch(lost(name));
      } else if (sweepDue) await sweep().catch((error: unknown) => log.error({ err: error }, 'cannot sweep'));
      else break;
    }
  };
  /** What could not even be reported (a full disk): tried again at the next tick. */
  const lost = (name: string) => (error: unknown) =>
    log.error({ err: error, artifact: name }, 'cannot journal how an artifact is, trying again');

  const start = (): void => {
    if (running || signal.aborted) return;
    running = run().finally(() => {
      running = null;
      for (const resolve of idleWaiters.splice(0)) resolve();
      if (due.size > 0 || sweepDue) start();
      else schedule();
    });
  };
  const kick = (names: Iterable<string>): void => {
    for (const name of names) due.add(name);
    if (due.size > 0) start();
  };

  /** The next tick, or the first retry that comes before it. */
  const schedule = (): void => {
    if (timer) clearTimeout(timer);
    timer = null;
    const open = [...items.values()].filter(isOpen);
    if (open.length === 0 || signal.aborted) return;
    const now = clock.monotonic();
    const retries = open.filter(({ failure }) => failure).map(({ notBefore }) => Math.max(notBefore - now, 0) + 1);
    timer = setTimeout(tick, Math.min(options.intervalMs, ...retries)).unref();
  };
  let fullAt = 0;
  const tick = (): void => {
    timer = null;
    const now = clock.monotonic();
    const full = now - fullAt >= options.intervalMs * 0.9;
    if (full) {
      fullAt = now;
      sweepDue = true;
    }
    const open = [...items.values()].filter(isOpen);
    kick(open.filter(({ failure, notBefore }) => full || (failure && notBefore <= now)).map(({ row }) => row.name));
    if (!running) schedule();
  };

  /** A hook may have become free. */
  const retryBusy = (): void => retryFailed((code) => code === 'artifacts.hook_busy');
  const retryFailed = (which: (code: ErrorCode) => boolean): void => {
    for (const [name, item] of items) {
      if (!item.failure || !which(item.failure.code)) continue;
      item.notBefore = 0;
      kick([name]);
    }
  };

  const everything = (): void => {
    fullAt = clock.monotonic();
    sweepDue = true;
    kick(desired.rows.keys());
  };

  return {
    /** Looks at everything once: what the journal holds is attached again, without a server. */
    start: everything,
    /** These changed. */
    changed: kick,
    /** Looks at everything now, also at what rests after a failure; resolves when that is done. */
    reconcileNow: async (): Promise<void> => {
      for (const item of items.values()) item.notBefore = 0;
      everything();
      if (running) await new Promise<void>((resolve) => idleWaiters.push(resolve));
    },
    /** Other keys are trusted: what failed for its signer is tried again, and what runs is told of anew. */
    trustChanged: (): void => {
      retryFailed((code) => /^artifacts\.(unknown_signer|revoked_signer|bad_signature)$/.test(code));
      kick([...items.values()].filter(({ row }) => row.present).map(({ row }) => row.name));
    },
    /** A tombstone that is no longer needed. */
    forget: (name: string): void => void items.delete(name),
    status: (): ReconcileStatus => statusOf([...items.values()], desired.rows.values()),
    /** After the signal: when the call under way has come back. */
    stopped: async (): Promise<void> => {
      if (timer) clearTimeout(timer);
      await running;
    },
  };
};
