/** Loading: bytes in, programs and maps out. The object itself is gone once they are loaded; each program and map owns its
 *  descriptor and is released when it is disposed. */
import { checkBytes, checkInteger, checkInterface, checkName, checkPath } from './arguments.ts';
import { invalid, LoaderError, missingCapabilities, typedAsync } from './errors.ts';
import {
  attachTypeNumber,
  isProgramType,
  loadKindOf,
  PROGRAM_TYPE_NUMBERS,
  PROGRAM_TYPE_SINCE,
  programTypeName,
} from './kernel-types.ts';
import type { RawLoaded, RawLoadOptions } from './loader.ts';
import { addon } from './loader.ts';
import { BpfMap } from './maps.ts';
import { Program } from './program.ts';
import type { LoadOptions, ProgramSpec } from './types.ts';

const DEFAULT_LOG_BYTES = 16 * 1024 * 1024;
export const MAX_OBJECT_BYTES = 16 * 1024 * 1024;

export interface LoadedObject extends Disposable {
  readonly programs: ReadonlyMap<string, Program>;
  /** By C name; of globals by section (".rodata"). */
  readonly maps: ReadonlyMap<string, BpfMap>;
  /** Throws bpf.unknown_program. */
  program(name: string): Program;
  /** Throws bpf.unknown_map. */
  map(name: string): BpfMap;
}

/** Loads an object. Nothing is pinned but the maps that `options.maps` gives a path; nothing is left when it fails. */
export const loadObject = async (bytes: Uint8Array, options: LoadOptions = {}): Promise<LoadedObject> => {
  checkBytes(bytes, 'An object');
  checkOnce(
    (options.programs ?? []).map(({ name }) => name),
    'Program',
  );
  checkOnce(
    (options.maps ?? []).map(({ name }) => name),
    'Map',
  );
  const raw = rawOptions(options);
  try {
    return loaded(await typedAsync(async () => addon().loadObject(bytes, raw)));
  } catch (error) {
    throw withSince(error, options);
  }
};

/** Points of programs that a network card is to run: their device is bound at load. */
const offloads = (options: LoadOptions) =>
  (options.programs ?? []).flatMap(({ name, attach }) =>
    attach?.kind === 'xdp' && attach.mode === 'offload' ? [{ name, ...attach }] : [],
  );

const offloadNetns = (options: LoadOptions): { netns?: string } => {
  const [netns, another] = new Set(offloads(options).map((point) => point.netns ?? ''));
  if (another !== undefined) throw invalid('Programs offloaded in several network namespaces are loaded one by one.');
  return netns ? { netns: checkPath(netns, 'A network namespace') } : {};
};

const checkOnce = (names: readonly string[], what: string): void => {
  const twice = names.find((name, at) => names.indexOf(name) !== at);
  if (twice !== undefined) throw invalid(`${what} ${twice} is given twice.`, { name: twice });
};

const rawOptions = (options: LoadOptions): RawLoadOptions => ({
  ...offloadNetns(options),
  name: checkName(options.name ?? 'object', "An object's name"),
  allPrograms: options.programs === undefined,
  programs: (options.programs ?? []).map(rawProgram),
  maps: (options.maps ?? []).map((map) => ({
    name: checkName(map.name, "A map's name"),
    ...(map.pinPath === undefined ? {} : { pinPath: checkPath(map.pinPath, "A map's pin") }),
    ...(map.maxEntries === undefined ? {} : { maxEntries: checkInteger(map.maxEntries, 1, 2 ** 32 - 1, 'maxEntries') }),
  })),
  globals: [...(options.globals ?? [])].map(([name, value]) => ({
    name: checkName(name, "A global's name"),
    bytes: checkBytes(value, `The value of ${name}`),
  })),
  logLimitBytes: checkInteger(options.logLimitBytes ?? DEFAULT_LOG_BYTES, 256, 1024 * 1024 * 1024, 'logLimitBytes'),
  ...(options.kernelBtf === undefined ? {} : { kernelBtf: checkBytes(options.kernelBtf, 'kernelBtf') }),
});

const rawProgram = (spec: ProgramSpec): RawLoadOptions['programs'][number] => {
  const kind = spec.attach ? loadKindOf(spec.attach) : undefined;
  // tp_btf: a tracing program on a raw tracepoint, bound at load.
  const boundTracepoint =
    spec.attach?.kind === 'raw_tracepoint' && spec.type === 'tracing' ? spec.attach.name : undefined;
  const type = spec.type ?? kind?.type;
  const attachType = boundTracepoint
    ? 'trace_raw_tp'
    : spec.type && kind && kind.type !== spec.type
      ? undefined
      : kind?.attachType;
  const attachTo = spec.attachTo ?? boundTracepoint;
  if (type !== undefined && PROGRAM_TYPE_NUMBERS[type] === undefined)
    throw invalid(`There is no program type ${String(type)}.`, { type });
  return {
    name: checkName(spec.name, "A program's name"),
    ...(type === undefined ? {} : { type: PROGRAM_TYPE_NUMBERS[type] }),
    ...(attachType === undefined ? {} : { expectedAttachType: attachTypeNumber(attachType) }),
    ...(attachTo === undefined ? {} : { attachTo: checkName(attachTo, 'attachTo') }),
    ...(spec.attach?.kind === 'xdp' && spec.attach.mode === 'offload'
      ? { offloadInterface: checkInterface(spec.attach.interface) }
      : {}),
  };
};

const loaded = (raw: RawLoaded): LoadedObject => {
  const programs = new Map(
    raw.programs.map((one) => [one.name, new Program(one.handle, one.name, programTypeName(one.type))]),
  );
  const maps = new Map(raw.maps.map((one) => [one.name, new BpfMap(one.handle, one.name)]));
  const find = <T>(all: ReadonlyMap<string, T>, name: string, code: 'bpf.unknown_program' | 'bpf.unknown_map'): T => {
    const found = all.get(name);
    if (found !== undefined) return found;
    const what = code === 'bpf.unknown_program' ? 'program' : 'map';
    throw new LoaderError({ code, message: `The object has no ${what} ${name}.`, details: { known: [...all.keys()] } });
  };
  return {
    programs,
    maps,
    program: (name) => find(programs, name, 'bpf.unknown_program'),
    map: (name) => find(maps, name, 'bpf.unknown_map'),
    [Symbol.dispose]: () => {
      for (const one of [...programs.values(), ...maps.values()]) one[Symbol.dispose]();
    },
  };
};

/** Names the type of a program that was refused for it, and since which kernel it is there. A refusal of tracing programs to a
 *  process that lacks nothing is the kernel's own policy (lockdown): for this machine they are not there. */
const withSince = (error: unknown, options: LoadOptions): unknown => {
  if (!(error instanceof LoaderError) || typeof error.details.type !== 'number') return error;
  const type = programTypeName(error.details.type);
  const since = isProgramType(type) ? PROGRAM_TYPE_SINCE[type] : undefined;
  const details = { ...error.details, type, ...(since === undefined ? {} : { since }) };
  const program = error.program === undefined ? {} : { program: error.program };
  const fields = { errno: error.errno, details, ...program };
  const offload = offloads(options).find(({ name }) => name === error.program);
  if (error.code === 'bpf.unsupported' && offload)
    return new LoaderError({
      ...fields,
      code: error.code,
      message: `The driver or card of ${offload.interface} does not offload XDP programs: take mode native or generic.`,
    });
  if (error.code === 'bpf.unsupported')
    return new LoaderError({
      ...fields,
      code: error.code,
      message:
        since === undefined
          ? error.message
          : `${error.message} Type ${type} is there since Linux ${since}, if built in.`,
    });
  const policy = error.code === 'bpf.not_permitted' && (type === 'tracing' || type === 'lsm');
  if (!policy || missingCapabilities().length > 0) return error;
  return new LoaderError({
    ...fields,
    code: 'bpf.unsupported',
    message: `This kernel refuses programs of type ${type} although this process has every capability for them: it is locked down (lockdown=confidentiality) or its security policy forbids them.`,
  });
};
