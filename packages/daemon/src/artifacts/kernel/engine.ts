/** artifacts/kernel: makes the kernel hold what a deployment says, and says how it is. Called by the reconcile loop, for one artifact
 *  at a time. Invariant: the kernel and its pins are the truth, memory only saves work; the old holds until the new does; nothing is
 *  touched that is not below `<bpffs>/aegis/<node uid>` or attached from there. It must not know directives, the journal or the
 *  network. Layout, upgrades and drift: docs/artifacts-kernel.md. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openBpffs } from '@aegis/bpf-loader/bpffs';
import { enableStats } from '@aegis/bpf-loader/kernel';
import { namespaceFacts } from '@aegis/bpf-loader/network';
import type { AttachmentReport, DriftReport } from '@aegis/protocol/artifacts/status';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import { type Clock, isoTime } from '../../platform/clock.ts';
import type { Logger } from '../../platform/log.ts';
import type { Deployment, EngineState, KernelEngine } from '../deployment.ts';
import { converge, programsOf } from './converge.ts';
import { deployError } from './failure.ts';
import { detach, type HookOptions } from './hooks.ts';
import { type ArtifactPaths, artifactKey, isKey, type Layout, layout as layoutOf } from './layout.ts';
import { network as networkOf } from './network.ts';
import { observe } from './observe.ts';
import { listFolder, ownFolder, ownIfThere, removePin, removeTree } from './pin-folders.ts';
import { attachedReport, describeMaps, mapReports } from './reports.ts';
import { cgroupMount, resolvePrograms } from './resolve.ts';
import { mapIdAt, openRevision, readFacts } from './revision.ts';
import {
  checkSettled,
  namespacesOf,
  type Settled,
  type SettledOptions,
  settledState,
  waitingReports,
} from './settled.ts';
import { closeSocket, type HeldSockets } from './sockets.ts';
import { hasTcx } from './tcx-probe.ts';
import { tenants as tenantsOf } from './tenants.ts';

export interface KernelEngineOptions {
  nodeUid: string;
  /** Mounted when there is none. */
  bpffs?: string;
  /** Where cgroup v2 is mounted; null: nowhere. By default as /proc/mounts says. */
  cgroupRoot?: string | null;
  faults: FaultPoints;
  log: Logger;
  clock: Clock;
  /** How long interfaces and routes that were read are taken as they were, in a pass that finds all well. */
  networkTtlMs?: number;
}

export interface Engine extends KernelEngine {
  /** Counts runs and run time of all programs of the machine while it is on: some 20 ns for each run. */
  statistics(on: boolean): void;
}

export const kernelEngine = (options: KernelEngineOptions): Engine => {
  const { nodeUid, bpffs = '/sys/fs/bpf', faults, log, clock } = options;
  const layout = layoutOf(bpffs, nodeUid);
  const network = networkOf((netns) => namespaceFacts(netns, { routes: true }), clock, options.networkTtlMs ?? 100);
  const tenants = tenantsOf(layout);
  const sockets: HeldSockets = new Map();
  const maps = mapReports(clock);
  const settled = new Map<string, Settled>();
  let stats: Disposable | null = null;
  let tcx: boolean | null = null;

  let queue: Promise<unknown> = Promise.resolve();
  /** One call at a time, in their order. */
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const result = queue.then(work);
    queue = result.catch(() => undefined);
    return result;
  };

  const step = <T>(name: string, work: () => T): T => {
    faults.at(`daemon.before-deploy.${name}`);
    const result = work();
    if (!(result instanceof Promise)) {
      faults.at(`daemon.after-deploy.${name}`);
      return result;
    }
    const after = result.then((value) => {
      faults.at(`daemon.after-deploy.${name}`);
      return value;
    });
    return after as T;
  };

  const prepareRoot = (): void => {
    openBpffs({ root: bpffs });
    ownFolder(layout.aegis);
    ownFolder(layout.node);
  };

  /** False: nothing was ever put there. */
  const rootIsThere = (): boolean => ownIfThere(layout.aegis) && ownIfThere(layout.node);

  const hookOptions = (name: string): HookOptions => ({
    layout,
    artifact: name,
    paths: layout.artifact(artifactKey(name)),
    sockets,
    tenants,
    step,
  });

  const settledOptions = (name: string, revision: string): SettledOptions => {
    const paths = layout.artifact(artifactKey(name));
    return { layout, paths, revision: layout.revision(paths, revision), sockets, network, counting };
  };

  let countedAt = Number.NEGATIVE_INFINITY;
  let countedByOthers = false;
  /** Also when somebody else counts: asked once a second. */
  const counting = (): boolean => {
    if (stats) return true;
    if (clock.monotonic() - countedAt > 1000) {
      countedAt = clock.monotonic();
      countedByOthers = statsEnabled();
    }
    return countedByOthers;
  };

  const drift = (what: string, detail: string, repaired: boolean): DriftReport => {
    log.warn({ what, repaired }, detail);
    return { at: isoTime(clock.now()), what, detail: detail.slice(0, 1024), repaired };
  };

  const apply = async (deployment: Deployment): Promise<EngineState> => {
    const { name, revision } = deployment;
    const known = settled.get(name);
    if (known?.revision === revision) {
      const reports = await checkSettled(settledOptions(name, revision), known);
      if (reports)
        return {
          attachments: [...reports, ...waitingReports(known)],
          maps: await maps.of(known.maps, false),
          drift: [],
          waiting: known.waiting.length > 0,
        };
    }
    settled.delete(name);
    try {
      prepareRoot();
    } catch (error) {
      throw deployError(error, `The bpf file system at ${bpffs} cannot be used`, 'attach');
    }
    try {
      return await applySlowly(deployment, known?.revision === revision);
    } catch (error) {
      dropEmpty(layout, layout.artifact(artifactKey(name)));
      throw deployError(error, `'${name}' ${deployment.version} cannot be put in place`, 'attach');
    }
  };

  const applySlowly = async (deployment: Deployment, seen: boolean): Promise<EngineState> => {
    const { name, revision } = deployment;
    tcx ??= deployment.programs.some(({ attach }) => attach.kind === 'tc') ? await hasTcx() : null;
    const worlds = new Map<string, string>();
    for (const netns of namespacesOf(deployment)) worlds.set(netns ?? '', (await network.fresh(netns)).text);
    const cgroupRoot = options.cgroupRoot === undefined ? cgroupMount() : options.cgroupRoot;
    const found = await converge({
      ...hookOptions(name),
      deployment,
      seen,
      resolve: (records) =>
        resolvePrograms(deployment.programs, {
          owner: `${nodeUid}/${name}`,
          namespace: async (netns) => (await network.recent(netns)).facts,
          cgroupRoot,
          hasTcx: tcx ?? false,
          records,
        }),
      report: drift,
      warn: (error, message) => log.error({ err: error, artifact: name }, message),
    });
    const where = settledOptions(name, revision);
    const opened = openRevision(where.revision);
    if (!opened || 'lost' in opened) return { attachments: [], maps: [], drift: found.drift, waiting: true };
    using open = opened;
    const described = describeMaps(open.facts.maps);
    const programs = new Map([...open.programs].map(([pin, { program }]) => [pin, program.info()]));
    const state = await settledState(where, deployment, { ...found, maps: described, programs }, worlds);
    if (state) settled.set(name, state);
    const attachments: AttachmentReport[] = found.wanted.flatMap((wanted) => {
      const info = programs.get(wanted.pin);
      const id = state?.links.get(wanted.key);
      return info ? [attachedReport(wanted, id === undefined ? null : { id }, info)] : [];
    });
    return {
      attachments: [...attachments, ...waitingReports(found)],
      maps: await maps.of(described, true),
      drift: found.drift,
      waiting: found.waiting.length > 0,
    };
  };

  /** Takes an artifact off by its key: also one whose name nobody knows any more. */
  const removeKey = async (key: string): Promise<void> => {
    const paths = layout.artifact(key);
    const ours = programsOf(layout, paths);
    const hooks: HookOptions = { layout, artifact: '', paths, sockets, tenants, step };
    for (const found of (await observe(paths, sockets)).values())
      await step('detach', () => detach(hooks, found, ours));
    step('forget', () => removeTree(paths.base));
    dropUnusedShared();
  };

  /** A shared map stays as long as a revision of any artifact uses it. */
  const dropUnusedShared = (): void => {
    const pins = listFolder(layout.shared);
    if (pins.length === 0) return;
    const used = new Set<number>();
    for (const paths of artifactPaths())
      for (const revision of listFolder(paths.revisions))
        for (const id of Object.values(readFacts(layout.revision(paths, revision))?.maps ?? {})) used.add(id);
    for (const name of pins) {
      const path = join(layout.shared, name);
      const id = mapIdAt(path);
      if (id === null || !used.has(id)) removePin(path);
    }
  };
  const artifactPaths = (): ArtifactPaths[] =>
    listFolder(layout.node)
      .filter(isKey)
      .map((key) => layout.artifact(key));

  return {
    apply: (deployment) => inTurn(() => apply(deployment)),
    remove: (name) =>
      inTurn(async () => {
        settled.delete(name);
        if (!rootIsThere()) return;
        await removeKey(artifactKey(name));
        dropEmptyRoot(layout);
      }),
    sweep: (names) =>
      inTurn(async () => {
        if (!rootIsThere()) return [];
        const keys = new Set(names.map(artifactKey));
        const removed: string[] = [];
        for (const paths of artifactPaths()) {
          const key = paths.base.slice(-16);
          if (keys.has(key)) continue;
          const name = nameOf(layout, paths);
          if (name !== null) settled.delete(name);
          removed.push(name ?? key);
          await removeKey(key);
        }
        dropUnusedShared();
        if (removed.length > 0) dropEmptyRoot(layout);
        return removed;
      }),
    statistics: (on) => {
      if (on) stats ??= enableStats();
      else {
        stats?.[Symbol.dispose]();
        stats = null;
      }
    },
    close: () => {
      stats?.[Symbol.dispose]();
      stats = null;
      for (const path of [...sockets.keys()]) closeSocket(sockets, path);
    },
  };
};

const nameOf = (layout: Layout, paths: ArtifactPaths): string | null => {
  for (const revision of listFolder(paths.revisions)) {
    const facts = readFacts(layout.revision(paths, revision));
    if (facts) return facts.artifact;
  }
  return null;
};

const statsEnabled = (): boolean => {
  try {
    return readFileSync('/proc/sys/kernel/bpf_stats_enabled', 'utf8').trim() === '1';
  } catch {
    return false; // a kernel before 5.1, or no /proc
  }
};

/** A first deployment that failed leaves no empty folders. */
const dropEmpty = (layout: Layout, { base, links, records, revisions, kept }: ArtifactPaths): void => {
  if ([links, records, revisions, kept].some((folder) => listFolder(folder).length > 0)) return;
  removeTree(base);
  dropEmptyRoot(layout);
};

/** Nothing of ours left: neither are our folders. */
const dropEmptyRoot = (layout: Layout): void => {
  for (const folder of [layout.shared, layout.qdiscs, layout.node, layout.aegis])
    if (listFolder(folder).length === 0) removeTree(folder);
};
