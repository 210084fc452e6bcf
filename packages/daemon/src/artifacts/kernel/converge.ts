import { join } from 'node:path';
import type { DriftReport } from '@aegis/protocol/artifacts/status';
import { DeployError, type Deployment } from '../deployment.ts';
import { type AttachmentRecord, describePoint, recordText, updatesAtOnce, type Wanted } from './attachment.ts';
import { deployError } from './failure.ts';
import { attachNew, type Change, detach, type HookOptions, replace, updateProgram } from './hooks.ts';
import { key16, type Layout, NEW, NEXT, OLD, pinName } from './layout.ts';
import { loadRevision } from './load-revision.ts';
import { type Observed, observe, standsWhereWished } from './observe.ts';
import { isThere, listFolder, ownFolder, readRecord, removePin, removeTree, writeRecord } from './pin-folders.ts';
import { followRenamed } from './renamed.ts';
import { plainName } from './reports.ts';
import type { Resolved } from './resolve.ts';
import { mapIdAt, type OpenRevision, openRevision, type PinDrift, pinMapById, readFacts } from './revision.ts';

/** The long way: reads what the kernel holds of one artifact, and changes what is otherwise than wished. Until everything new holds,
 *  nothing old goes; a failure before that puts everything back. It begins at any state that a crash leaves. */

export interface ConvergeOptions extends HookOptions {
  deployment: Deployment;
  /** This process has seen this revision in place before. */
  seen: boolean;
  resolve(records: readonly AttachmentRecord[]): Promise<Resolved>;
  report(what: string, detail: string, repaired: boolean): DriftReport;
  warn(error: unknown, message: string): void;
}

interface Found {
  what: string;
  detail: string;
  repaired?: boolean;
}

export interface Converged extends Resolved {
  drift: DriftReport[];
}

export const converge = async (options: ConvergeOptions): Promise<Converged> => {
  const { paths, deployment, step } = options;
  for (const folder of [paths.base, paths.links, paths.records, paths.revisions]) ownFolder(folder);
  await step('tidy', () => tidy(options));
  const observed = await observe(paths, options.sockets);
  const records = [...observed.values()].flatMap(({ record }) => (record ? [record] : []));
  const resolved = await options.resolve(records);
  const before = await followRenamed(options, resolved.wanted, observed);
  const settled = readRecord(paths.settled) === deployment.revision;
  const ready = await readyRevision(options);
  const { revision } = ready;
  try {
    const made: Change[] = [];
    let plan: Plan;
    try {
      plan = planChanges(resolved.wanted, before, revision);
      await change(options, plan, revision, made);
    } catch (error) {
      await putBack(options, made, ready);
      throw deployError(error, `'${deployment.name}' ${deployment.version} cannot be attached`, 'attach');
    }
    for (const one of made) one.done();
    await step('settle', () => settle(options, plan, revision, resolved.wanted));
    const drift: Found[] = settled ? [...ready.drift, ...linkDrift(plan, before, resolved)] : [];
    if (!settled && options.seen) drift.push(allGone(paths.base));
    return {
      ...resolved,
      drift: drift.map(({ what, detail, repaired = true }) => options.report(what, detail, repaired)),
    };
  } finally {
    revision[Symbol.dispose]();
  }
};

const allGone = (base: string): Found => ({
  what: 'link_missing',
  detail: `all pins below ${base} were gone: removed, or the bpf file system was unmounted`,
});

interface Ready {
  revision: OpenRevision;
  /** Pins of shared maps that were made for it. */
  madeShared: readonly string[];
  drift: readonly PinDrift[];
}

/** The revision as it is pinned, or loaded now. */
const readyRevision = async (options: ConvergeOptions): Promise<Ready> => {
  const { layout, paths, deployment, step } = options;
  const revisionPaths = layout.revision(paths, deployment.revision);
  const there = openRevision(revisionPaths);
  const drift: PinDrift[] = there ? ('lost' in there ? there.lost : [...there.drift]) : [];
  if (there && !('lost' in there)) {
    const moved = sharedElsewhere(options, there);
    if (!moved) return { revision: there, madeShared: [], drift };
    drift.push({ what: 'map_missing', detail: `the shared map '${moved}' is another one now` });
    there[Symbol.dispose]();
  }
  const again = there ? revisionPaths : null;
  const madeShared = await step('load', () => loadRevision({ deployment, layout, artifact: paths, again, step }));
  const loaded = openRevision(revisionPaths);
  if (loaded && !('lost' in loaded)) return { revision: loaded, madeShared, drift };
  throw new DeployError(
    'artifacts.load_failed',
    `Pins of '${deployment.name}' vanish as they are made: see who else writes to ${layout.node}.`,
  );
};

/** What a crash left half made: where the old holds still, the half goes; where only the new holds, it takes the place. */
const tidy = async (options: ConvergeOptions): Promise<void> => {
  const { paths, layout, sockets } = options;
  const before = await observe(paths, sockets);
  for (const [name, found] of before) {
    if (!name.endsWith(NEXT)) continue;
    const key = name.slice(0, -NEXT.length);
    const old = before.get(key);
    const ours = programsOf(layout, paths);
    const moved = found.link !== undefined && found.record === null;
    if (moved || (found.state === 'attached' && old?.state !== 'attached'))
      await replace(options, { key }, old ?? null, ours);
    else await detach(options, found, ours);
  }
  for (const name of listFolder(paths.records)) if (name.endsWith('-w')) removePin(join(paths.records, name));
  for (const name of listFolder(paths.revisions))
    if (name.endsWith(NEW) || name.endsWith(OLD)) removeTree(join(paths.revisions, name));
};

/** Ids of all programs of all revisions of an artifact. */
export const programsOf = (layout: Layout, paths: HookOptions['paths']): number[] =>
  listFolder(paths.revisions).flatMap((name) => Object.values(readFacts(layout.revision(paths, name))?.programs ?? {}));

interface Plan {
  /** Nothing holds these names. */
  add: Wanted[];
  /** New beside old, then in its place. */
  overlap: { wanted: Wanted; old: Observed }[];
  /** Another program at once. */
  update: { wanted: Wanted; old: Observed }[];
  obsolete: Observed[];
}

const planChanges = (
  wanted: readonly Wanted[],
  before: ReadonlyMap<string, Observed>,
  revision: OpenRevision,
): Plan => {
  const plan: Plan = { add: [], overlap: [], update: [], obsolete: [] };
  for (const one of wanted) {
    const old = before.get(one.key);
    const program = programOf(revision, one);
    if (old?.state === 'attached') refuseOtherMode(one, old);
    if (!old || (old.state === 'absent' && !old.link)) plan.add.push(one);
    else if (!standsWhereWished(old, one)) plan.overlap.push({ wanted: one, old });
    else if (old.programId === program.id) continue;
    else if (updatesAtOnce(one.point)) plan.update.push({ wanted: one, old });
    else plan.overlap.push({ wanted: one, old });
  }
  const keys = new Set(wanted.map(({ key }) => key));
  for (const [name, old] of before) if (!keys.has(name)) plan.obsolete.push(old);
  return plan;
};

const programOf = (revision: OpenRevision, { pin, program }: Wanted) => {
  const found = revision.programs.get(pin);
  if (!found)
    throw new DeployError(
      'artifacts.load_failed',
      `The object has no program '${program.name}': correct the manifest.`,
    );
  return found;
};

/** An interface runs XDP in one mode at a time: changing it would leave a moment without a program. */
const refuseOtherMode = ({ point, program }: Wanted, { record }: Observed): void => {
  if (point.kind !== 'xdp' || record?.point.kind !== 'xdp' || point.mode === 'auto' || point.mode === record.point.mode)
    return;
  throw new DeployError(
    'artifacts.attach_failed',
    `Program '${program.name}' runs on ${point.interface} in mode ${record.point.mode}, and the kernel changes the mode of an XDP hook only through a moment without a program: unassign the artifact first, then assign the version with mode ${point.mode}.`,
  );
};

/** @param made filled as it goes: what is to be undone when it fails */
const change = async (options: ConvergeOptions, plan: Plan, revision: OpenRevision, made: Change[]): Promise<void> => {
  const { step } = options;
  const add = async (wanted: Wanted, beside: Observed | null): Promise<void> => {
    made.push(await attachNew(options, wanted, programOf(revision, wanted).program, beside));
  };
  const update = async (wanted: Wanted, old: Observed): Promise<void> => {
    made.push(await updateProgram(options, wanted, old, programOf(revision, wanted).program));
  };
  for (const wanted of plan.add) await step('attach', () => add(wanted, null));
  for (const { wanted, old } of plan.overlap) await step('attach', () => add(wanted, old));
  for (const { wanted, old } of plan.update) await step('update', () => update(wanted, old));
};

/** After a failure: every hook runs what it ran, and a revision that never came to be used goes. */
const putBack = async (
  { warn, paths, layout, deployment }: ConvergeOptions,
  made: readonly Change[],
  { revision, madeShared }: Ready,
): Promise<void> => {
  for (const one of made.toReversed()) {
    try {
      await one.undo();
    } catch (error) {
      warn(error, 'cannot put back what was before a failed deployment');
    }
  }
  if (readRecord(paths.settled) === deployment.revision) return;
  for (const path of madeShared) removePin(path);
  revision[Symbol.dispose]();
  removeTree(layout.revision(paths, deployment.revision).base);
};

/** Everything new holds: what is left of the old goes. */
const settle = async (
  options: ConvergeOptions,
  plan: Plan,
  revision: OpenRevision,
  wanted: readonly Wanted[],
): Promise<void> => {
  const { paths, layout, deployment, step } = options;
  const ours = programsOf(layout, paths);
  for (const { wanted: one, old } of plan.overlap) await step('replace', () => replace(options, one, old, ours));
  for (const one of wanted) rewriteRecord(options, one);
  for (const old of plan.obsolete) await step('detach', () => detach(options, old, ours));
  step('keep', () => keepMaps(options, revision));
  if (readRecord(paths.settled) !== deployment.revision) writeRecord(paths.settled, deployment.revision);
  for (const name of listFolder(paths.revisions))
    if (name !== deployment.revision) step('forget', () => removeTree(join(paths.revisions, name)));
};

/** The program's name or object may have changed while the hook stayed, or the record was lost. */
const rewriteRecord = ({ artifact, paths }: ConvergeOptions, wanted: Wanted): void => {
  const path = join(paths.records, wanted.key);
  const text = recordText(artifact, wanted);
  if (readRecord(path) !== text) writeRecord(path, text);
};

/** The kept maps are those of this revision: the pins that the next one takes up. */
const keepMaps = ({ paths, deployment, layout }: ConvergeOptions, { facts }: OpenRevision): void => {
  const wanted = new Map<string, number>();
  for (const { rule, id } of ruledMaps(deployment, facts.maps)) {
    if (rule.share !== undefined) {
      ownFolder(layout.shared);
      const path = join(layout.shared, key16(rule.share));
      if (!isThere(path)) pinMapById(id, path);
    } else if (rule.keep) wanted.set(key16(rule.name), id);
  }
  if (wanted.size > 0) ownFolder(paths.kept);
  for (const [name, id] of wanted) if (mapIdAt(join(paths.kept, name)) !== id) pinMapById(id, join(paths.kept, name));
  for (const name of listFolder(paths.kept)) if (!wanted.has(name)) removePin(join(paths.kept, name));
};

function* ruledMaps(deployment: Deployment, maps: Readonly<Record<string, number>>) {
  for (const rule of deployment.maps) {
    const id = maps[pinName(rule)];
    if (id !== undefined) yield { rule, id };
  }
}

/** The name of a shared map that others have made anew meanwhile; null when all are the ones that this revision uses. */
const sharedElsewhere = ({ deployment, layout }: ConvergeOptions, { facts }: OpenRevision): string | null => {
  for (const { rule, id } of ruledMaps(deployment, facts.maps)) {
    if (rule.share === undefined) continue;
    const there = mapIdAt(join(layout.shared, key16(rule.share)));
    if (there !== null && there !== id) return rule.share;
  }
  return null;
};

/** What is otherwise than a finished deployment left it. */
const linkDrift = (plan: Plan, before: ReadonlyMap<string, Observed>, { waiting }: Resolved): Found[] => {
  const missing = plan.add.flatMap((wanted) => {
    // Without a record it was never attached: an interface that came just now.
    if (!before.get(wanted.key)?.record) return [];
    const held = wanted.point.kind === 'socket_filter';
    return held ? [] : [{ what: 'link_missing', detail: `${describePoint(wanted.point)}: the link was gone` }];
  });
  const elsewhere = plan.overlap.flatMap(({ wanted, old }) => {
    const hook = describePoint(wanted.point);
    if (old.state === 'attached' && standsWhereWished(old, wanted))
      return [{ what: 'program_replaced', detail: `${hook}: program ${old.programId} stood in the link` }];
    return [{ what: 'link_detached', detail: `${hook}: detached by force, or its target was made anew` }];
  });
  const replaced = plan.update.map(({ wanted, old }) => ({
    what: 'program_replaced',
    detail: `${describePoint(wanted.point)}: program ${old.programId} stood there`,
  }));
  const waits = new Set(waiting.map(({ program }) => program));
  // The kernel lets go of a removed cgroup's links a while later: what is gone is told by what is waited for.
  const gone = plan.obsolete.flatMap(({ record, link }) =>
    record && link && waits.has(plainName(record.program))
      ? [{ what: 'link_detached', detail: `${describePoint(record.point)}: its target is gone`, repaired: false }]
      : [],
  );
  return [...missing, ...elsewhere, ...replaced, ...gone];
};
