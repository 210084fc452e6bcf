/** Loads a compiled test program with its globals given as values, and reads its counters through bpftool. */
import { parseBtf } from '../src/btf.ts';
import { type LoadedObject, loadObject } from '../src/object.ts';
import type { Program } from '../src/program.ts';
import type { LoadOptions, ProgramSpec } from '../src/types.ts';
import { encode } from '../src/values.ts';
import { bpftool, type Json, needRoot } from './commands.ts';
import { btfBytes, programBytes } from './programs.ts';

/** Bytes of globals by the types that the object gives them. */
export const globalsOf = (object: string, values: Readonly<Record<string, unknown>>): Map<string, Uint8Array> => {
  const btf = parseBtf(btfBytes(object));
  const variables = btf.variables();
  return new Map(
    Object.entries(values).map(([name, value]) => {
      const variable = variables.find((one) => one.name === name);
      if (!variable) throw new Error(`${object} has no global ${name}`);
      return [name, encode(btf, variable.typeId, value)];
    }),
  );
};

export const load = (
  object: string,
  programs: readonly ProgramSpec[],
  globals: Readonly<Record<string, unknown>> = {},
  more: LoadOptions = {},
): Promise<LoadedObject> => {
  needRoot();
  return loadObject(programBytes(object), { name: object, programs, globals: globalsOf(object, globals), ...more });
};

const isRecord = (value: Json | undefined): value is { [name: string]: Json } =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
export const record = (value: Json | undefined): { [name: string]: Json } => {
  if (isRecord(value)) return value;
  throw new Error(`no record: ${JSON.stringify(value)}`);
};
export const list = (value: Json | undefined): Json[] => {
  if (Array.isArray(value)) return value;
  throw new Error(`no list: ${JSON.stringify(value)}`);
};

/** Id of a program's map, as bpftool finds it. Names are cut to 15 bytes by the kernel. */
export const mapIdOf = async (program: Program, name: string): Promise<number> => {
  for (const id of program.info().mapIds) {
    const map = record(await bpftool(['map', 'show', 'id', `${id}`]));
    if (map.name === name.slice(0, 15)) return id;
  }
  throw new Error(`${program.name} has no map ${name}`);
};

/** bpftool's dump of one of a program's maps, decoded by BTF. */
export const dump = async (program: Program, name: string): Promise<Json[]> =>
  list(await bpftool(['map', 'dump', 'id', `${await mapIdOf(program, name)}`])).map(
    (entry) => record(entry).formatted ?? entry,
  );

/** The counters that are not zero, by slot. */
export const counters = async (program: Program): Promise<Record<number, number>> => {
  const found: Record<number, number> = {};
  for (const entry of await dump(program, 'counters')) {
    const { key, value } = record(entry);
    if (value !== 0) found[Number(key)] = Number(value);
  }
  return found;
};

/** What bpftool says of a link. */
export const linkShown = async (id: number): Promise<{ [name: string]: Json }> =>
  record(await bpftool(['link', 'show', 'id', `${id}`]));

export const linkIsGone = async (id: number): Promise<boolean> => {
  try {
    await linkShown(id);
    return false;
  } catch {
    return true; // bpftool's "can't get link by id: No such file or directory"
  }
};
