import { constantKey } from '@aegis/protocol/artifacts/assignment';
import { encodeConstant } from '@aegis/protocol/artifacts/constants';
import type { Manifest } from '@aegis/protocol/artifacts/manifest';
import { AegisError } from '@aegis/protocol/errors';
import { sha256Of } from './local-files.ts';

/** eBPF objects as libbpf reads them, without loading anything: for `inspect`, and for `pack`, which looks for what the manifest names. */

export interface ObjectInspection {
  file: string;
  size: number;
  sha256: string;
  license: string;
  /** Types for the kernel and for decoding. */
  btf: boolean;
  /** Places that are fitted to the node's own kernel (CO-RE). */
  core_relocations: number;
  needs_kernel_btf: boolean;
  programs: { name: string; section: string; type: string | null; instructions: number }[];
  maps: { name: string; type: string; key_bytes: number; value_bytes: number; max_entries: number }[];
  globals: { name: string; section: string; type: string; bytes: number }[];
  /** Kernel functions and variables, and settings of the kernel's configuration. */
  externs: string[];
}

/** Null where the loader is not built, with the reason. */
const loader = async () => {
  const { loaderAvailable } = await import('@aegis/bpf-loader/loader');
  const { available, reason } = loaderAvailable();
  return available ? { inspect: await import('@aegis/bpf-loader/inspect') } : { inspect: null, reason };
};

/** @returns null where the loader is not built
 *  @throws AegisError artifacts.bad_object */
export const inspectObject = async (file: string, bytes: Buffer): Promise<ObjectInspection | null> => {
  const { inspect } = await loader();
  if (inspect === null) return null;
  let report: Awaited<ReturnType<typeof inspect.inspectObject>>;
  try {
    report = await inspect.inspectObject(bytes);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AegisError('artifacts.bad_object', `${file} is no eBPF object that can be loaded: ${reason}`);
  }
  return {
    file,
    size: bytes.length,
    sha256: sha256Of(bytes),
    license: report.license,
    btf: report.hasBtf,
    core_relocations: report.coreRelocations,
    needs_kernel_btf: report.needsKernelBtf,
    programs: report.programs.map(({ name, section, type, instructions }) => ({
      name,
      section,
      type: type ?? null,
      instructions,
    })),
    maps: report.maps
      .filter(({ internal }) => !internal)
      .map(({ name, type, keySize, valueSize, maxEntries }) => ({
        name,
        type,
        key_bytes: keySize,
        value_bytes: valueSize,
        max_entries: maxEntries,
      })),
    globals: report.globals.map(({ name, section, typeName, size }) => ({
      name,
      section,
      type: typeName,
      bytes: size,
    })),
    externs: report.externs.map(({ name }) => name),
  };
};

/** Whether programs, maps and constants of a manifest are in its objects, and the constants' values fit.
 *  @returns false where the loader is not built
 *  @throws AegisError artifacts.bad_object, artifacts.unknown_constant, artifacts.bad_constant */
export const checkObjects = async (manifest: Manifest, files: ReadonlyMap<string, Buffer>): Promise<boolean> => {
  const found = new Map<string, ObjectInspection>();
  for (const { file, kind } of manifest.objects) {
    if (kind !== 'object') continue;
    const inspected = await inspectObject(file, files.get(file) ?? Buffer.alloc(0));
    if (inspected === null) return false;
    found.set(file, inspected);
  }
  const [only] = found.values();
  const of = ({ object }: { object?: string | undefined }) => (object === undefined ? only : found.get(object));
  for (const program of manifest.programs) {
    const object = of(program);
    if (object && !object.programs.some(({ name }) => name === program.name))
      throw unknown('artifacts.bad_object', 'program', program.name, object, object.programs);
  }
  for (const map of manifest.maps) {
    const object = of(map);
    if (object && !object.maps.some(({ name }) => name === map.name))
      throw unknown('artifacts.bad_object', 'map', map.name, object, object.maps);
  }
  for (const constant of manifest.constants) {
    const object = of(constant);
    const global = object?.globals.find(({ name }) => name === constant.name);
    if (object && !global) {
      const known = object.globals.filter(({ section }) => section.startsWith('.rodata'));
      throw unknown('artifacts.unknown_constant', 'constant', constant.name, object, known);
    }
    if (global) checkConstant(constant, global.bytes);
  }
  return true;
};

const checkConstant = (constant: Manifest['constants'][number], bytes: number): void => {
  try {
    encodeConstant(constant.type, constant.value, bytes);
  } catch (error) {
    if (!(error instanceof AegisError)) throw error;
    throw new AegisError(error.code, `The constant '${constantKey(constant)}': ${error.message}`);
  }
};

const MOST_SHOWN = 20;
const unknown = (
  code: 'artifacts.bad_object' | 'artifacts.unknown_constant',
  what: string,
  name: string,
  { file }: ObjectInspection,
  all: readonly { name: string }[],
): AegisError => {
  const known = all.map((one) => one.name).sort();
  const shown = known.slice(0, MOST_SHOWN).join(', ') + (known.length > MOST_SHOWN ? ', …' : '');
  const there = known.length === 0 ? `it has no ${what} at all` : `it has ${shown}`;
  return new AegisError(code, `${file} has no ${what} '${name}': ${there}. Correct aegis.json, or the program.`, {
    details: { known },
  });
};
