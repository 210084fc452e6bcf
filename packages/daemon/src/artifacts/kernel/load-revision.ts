import { renameSync } from 'node:fs';
import { join } from 'node:path';
import { inspectObject } from '@aegis/bpf-loader/inspect';
import { loadKindOf } from '@aegis/bpf-loader/kernel-types';
import type { BpfMap } from '@aegis/bpf-loader/maps';
import { type LoadedObject, loadObject } from '@aegis/bpf-loader/object';
import type { AttachPoint, MapSpec, ObjectReport, ProgramSpec } from '@aegis/bpf-loader/types';
import { encodeConstant } from '@aegis/protocol/artifacts/constants';
import type { MapRule, Program } from '@aegis/protocol/artifacts/manifest';
import { DeployError, type Deployment } from '../deployment.ts';
import { deployError, isLoaderError } from './failure.ts';
import { fillMap } from './initial-contents.ts';
import { type ArtifactPaths, key16, type Layout, NEW, OLD, pinName, type RevisionPaths } from './layout.ts';
import { isThere, ownFolder, removePin, removeTree, writeText } from './pin-folders.ts';
import type { RevisionFacts } from './revision.ts';

/** Loads all programs of a revision and pins them, before any hook changes. The folder gets its name last: one that has it is whole. */

export interface LoadOptions {
  deployment: Deployment;
  layout: Layout;
  artifact: ArtifactPaths;
  /** The same revision, some of whose pins were lost: its maps are taken again, with what is in them. */
  again: RevisionPaths | null;
  step<T>(name: string, work: () => T): T;
}

/** @returns pins of shared maps that were made: to be removed if the revision does not come to be used
 *  @throws DeployError; nothing is left then */
export const loadRevision = async (options: LoadOptions): Promise<string[]> => {
  const { deployment, layout, artifact, step } = options;
  const making = layout.revision(artifact, `${deployment.revision}${NEW}`);
  const shared: string[] = [];
  try {
    const { objects, kernelBtf } = await deployment.bytes();
    removeTree(making.base);
    const loaded: { object: string | undefined; all: LoadedObject }[] = [];
    try {
      for (const plan of objectPlans(deployment, objects)) {
        const all = await loadOne(plan, options, kernelBtf);
        loaded.push({ object: plan.object, all });
      }
      step('pin', () => pinAll(deployment, making, loaded));
      step('share', () => shareMaps(deployment, layout, loaded, shared));
    } finally {
      for (const { all } of loaded) all[Symbol.dispose]();
    }
    const whole = layout.revision(artifact, deployment.revision);
    step('name', () => {
      const before = `${whole.base}${OLD}`;
      removeTree(before);
      if (isThere(whole.base)) renameSync(whole.base, before);
      renameSync(making.base, whole.base);
    });
    return shared;
  } catch (error) {
    for (const path of shared) removePin(path);
    removeTree(making.base);
    throw deployError(error, `'${deployment.name}' ${deployment.version} cannot be loaded`, 'load');
  }
};

interface ObjectPlan {
  object: string | undefined;
  bytes: Buffer;
  programs: Program[];
  rules: readonly MapRule[];
  constants: Deployment['constants'];
}

const objectPlans = (deployment: Deployment, objects: ReadonlyMap<string, Buffer>): ObjectPlan[] => {
  const names = [...new Set(deployment.programs.map(({ object }) => object))];
  return names.map((object) => {
    const bytes = object === undefined ? [...objects.values()][0] : objects.get(object);
    if (!bytes)
      throw new DeployError(
        'artifacts.load_failed',
        `The bundle has no object ${object ?? 'at all'}: publish it again.`,
      );
    const of = (one: { object?: string | undefined }): boolean => one.object === object;
    return {
      object,
      bytes,
      programs: deployment.programs.filter(of),
      rules: deployment.maps.filter(of),
      constants: deployment.constants.filter(of),
    };
  });
};

const loadOne = async (
  plan: ObjectPlan,
  options: LoadOptions,
  kernelBtf: Buffer | undefined,
): Promise<LoadedObject> => {
  const report = await inspectObject(plan.bytes);
  const programs = programSpecs(plan.programs, report);
  const globals = globalBytes(plan, report);
  const kept = new Set<string>();
  for (;;) {
    const maps = mapSpecs(plan, report, options, kept);
    try {
      const all = await loadObject(plan.bytes, { programs, globals, maps, ...(kernelBtf ? { kernelBtf } : {}) });
      try {
        fillNew(plan.rules, maps, all);
      } catch (error) {
        all[Symbol.dispose]();
        throw error;
      }
      return all;
    } catch (error) {
      // A kept map of another shape: this version begins with a new one, and the old one stays until its programs are gone.
      const name = isLoaderError(error, 'bpf.map_mismatch') ? error.details.map : undefined;
      const rule = plan.rules.find((one) => one.name === name && one.keep && one.share === undefined);
      if (!rule || kept.has(rule.name)) throw error;
      kept.add(rule.name);
    }
  }
};

/** What each program is attached as, and with a program array all others of the object too: it calls them. */
const programSpecs = (programs: readonly Program[], report: ObjectReport): ProgramSpec[] => {
  const specs = new Map<string, ProgramSpec>();
  for (const program of programs) {
    const spec = { name: program.name, ...loadPoint(program) };
    const other = specs.get(program.name);
    if (other && loadsAs(other) !== loadsAs(spec))
      throw new DeployError(
        'artifacts.unsupported',
        `Program '${program.name}' is attached at two places that need it loaded twice: write it as two functions.`,
      );
    if (!other) specs.set(program.name, spec);
  }
  const first = [...specs.values()][0];
  if (first?.attach && report.maps.some(({ type }) => type === 'prog_array')) {
    const { type } = loadKindOf(first.attach);
    for (const { name } of report.programs) if (!specs.has(name)) specs.set(name, { name, type });
  }
  return [...specs.values()];
};

const DIRECTED: ReadonlySet<AttachPoint['kind']> = new Set(['cgroup_skb']);
const loadsAs = ({ attach, attachTo }: ProgramSpec): string => {
  if (!attach) return '';
  const kind = loadKindOf(attach);
  const offload = attach.kind === 'xdp' && attach.mode === 'offload' ? attach.interface : '';
  return JSON.stringify([kind.type, DIRECTED.has(attach.kind) ? '' : (kind.attachType ?? ''), attachTo ?? '', offload]);
};

/** Only what decides how a program is loaded: interfaces and cgroups are found later. */
const loadPoint = ({ attach }: Program): Pick<ProgramSpec, 'attach' | 'attachTo'> => {
  switch (attach.kind) {
    case 'fentry':
    case 'fexit':
      return { attach: { kind: attach.kind }, attachTo: attach.function };
    case 'lsm':
      return { attach: { kind: 'lsm' }, attachTo: attach.hook };
    case 'tc':
      return { attach: { kind: 'tcx', interface: 'any', direction: attach.direction } };
    case 'perf_event':
      return { attach: { kind: 'perf_event', event: attach.event, cpu: -1, pid: -1 } };
    case 'uprobe':
    case 'uretprobe':
      return { attach: { kind: attach.kind, binary: attach.binary, offset: attach.offset } };
    case 'xdp':
      return { attach: { kind: 'xdp', interface: attach.interface, mode: attach.mode } };
    case 'socket_filter':
      return { attach: { kind: 'socket_filter', interface: 'any' } };
    case 'sk_lookup':
    case 'flow_dissector':
      return { attach: { kind: attach.kind } };
    case 'netfilter':
      return {
        attach: { kind: 'netfilter', family: attach.family, hook: attach.hook, priority: attach.priority },
      };
    default:
      return { attach };
  }
};

const globalBytes = ({ constants, object }: ObjectPlan, report: ObjectReport): Map<string, Uint8Array> => {
  const known = report.globals.filter(({ section }) => !section.startsWith('.bss'));
  const bytes = new Map<string, Uint8Array>();
  for (const { name, type, value } of constants) {
    const variable = known.find((one) => one.name === name);
    if (!variable) {
      const names = known.map((one) => one.name).sort();
      throw new DeployError(
        'artifacts.unknown_constant',
        `${object ?? 'The object'} has no constant '${name}'. ${names.length > 0 ? `It has: ${names.slice(0, 64).join(', ')}.` : "It has none: declare it 'const volatile' and compile with -g."}`,
      );
    }
    bytes.set(name, encodeConstant(type, value, variable.size));
  }
  return bytes;
};

const mapSpecs = (
  { object, rules }: ObjectPlan,
  report: ObjectReport,
  { layout, artifact, again }: LoadOptions,
  anew: ReadonlySet<string>,
): MapSpec[] =>
  report.maps.flatMap(({ name, internal }) => {
    if (internal) return [];
    const rule = rules.find((one) => one.name === name);
    const places = [
      rule?.share === undefined ? null : join(layout.shared, key16(rule.share)),
      rule?.keep && rule.share === undefined && !anew.has(name) ? join(artifact.kept, key16(name)) : null,
      again && !anew.has(name) ? join(again.maps, pinName({ object, name })) : null,
    ];
    // Only what is there is named: a new map is pinned when its contents are in it.
    const pinPath = places.find((place) => place !== null && isThere(place));
    const maxEntries = rule?.max_entries;
    if (pinPath === undefined && maxEntries === undefined) return [];
    return [
      {
        name,
        ...(pinPath ? { pinPath } : {}),
        ...(maxEntries === undefined ? {} : { maxEntries }),
      },
    ];
  });

const fillNew = (rules: readonly MapRule[], specs: readonly MapSpec[], all: LoadedObject): void => {
  for (const { name, initial = [] } of rules) {
    const map = all.map(name);
    const taken = specs.some((spec) => spec.name === name && spec.pinPath !== undefined);
    if (!taken && initial.length > 0) fillMap(name, map, initial);
  }
};

const eachMap = function* (
  loaded: readonly { object: string | undefined; all: LoadedObject }[],
): Generator<{ object: string | undefined; name: string; map: BpfMap }> {
  for (const { object, all } of loaded)
    for (const [name, map] of all.maps) if (!name.startsWith('.')) yield { object, name, map };
};

const pinAll = (
  { name, version }: Deployment,
  paths: RevisionPaths,
  loaded: readonly { object: string | undefined; all: LoadedObject }[],
): void => {
  for (const folder of [paths.base, paths.programs, paths.maps]) ownFolder(folder);
  const facts: RevisionFacts = { artifact: name, version, programs: {}, maps: {} };
  for (const { object, all } of loaded)
    for (const [program, handle] of all.programs) {
      const pin = pinName({ object, name: program });
      handle.pin(join(paths.programs, pin));
      facts.programs[pin] = handle.id;
    }
  for (const { object, name: map, map: handle } of eachMap(loaded)) {
    const pin = pinName({ object, name: map });
    handle.pin(join(paths.maps, pin));
    facts.maps[pin] = handle.info().id;
  }
  writeText(paths.facts, JSON.stringify(facts));
};

/** The first artifact that shares a name makes the map. */
const shareMaps = (
  deployment: Deployment,
  layout: Layout,
  loaded: readonly { object: string | undefined; all: LoadedObject }[],
  made: string[],
): void => {
  for (const { object, name, map } of eachMap(loaded)) {
    const rule = deployment.maps.find((one) => one.name === name && one.object === object);
    if (rule?.share === undefined) continue;
    ownFolder(layout.shared);
    const path = join(layout.shared, key16(rule.share));
    if (isThere(path)) continue;
    map.pin(path);
    made.push(path);
  }
};
