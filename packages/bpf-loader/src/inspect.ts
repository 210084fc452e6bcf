/** Reads an object without loading anything: works without rights, and on hostile bytes gives bpf.bad_object. */
import { checkBytes } from './arguments.ts';
import { typedAsync } from './errors.ts';
import { attachTypeName, mapTypeName, programTypeName } from './kernel-types.ts';
import { addon } from './loader.ts';
import type { ObjectReport } from './types.ts';

export type { ObjectReport } from './types.ts';

export const inspectObject = async (bytes: Uint8Array): Promise<ObjectReport> => {
  checkBytes(bytes, 'An object');
  const raw = await typedAsync(async () => addon().inspectObject(bytes));
  const namesOf = (section: string, isFunction: boolean): string[] =>
    raw.externs.filter((one) => one.section === section && one.function === isFunction).map(({ name }) => name);
  const kernelFunctions = namesOf('.ksyms', true);
  const kernelVariables = namesOf('.ksyms', false);
  const programs = raw.programs.map(({ type, expectedAttachType, ...program }) => ({
    ...program,
    ...(type === 0 ? {} : { type: programTypeName(type) }),
    ...(expectedAttachType === 0 ? {} : { attachType: attachTypeName(expectedAttachType) }),
  }));
  return {
    license: raw.license,
    programs,
    maps: raw.maps.map(({ type, ...map }) => ({ ...map, type: mapTypeName(type) })),
    globals: raw.globals,
    externs: raw.externs,
    kernelFunctions,
    kernelVariables,
    kernelConfig: namesOf('.kconfig', false),
    hasBtf: raw.hasBtf,
    hasBtfExt: raw.hasBtfExt,
    coreRelocations: raw.coreRelocations,
    needsKernelBtf:
      raw.coreRelocations > 0 ||
      kernelFunctions.length + kernelVariables.length > 0 ||
      programs.some(({ type }) => type === 'tracing' || type === 'lsm'),
    ...(raw.hasBtf ? { btf: raw.btf } : {}),
  };
};
