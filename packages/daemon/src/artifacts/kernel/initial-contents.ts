import { parseBtf } from '@aegis/bpf-loader/btf';
import { btfById } from '@aegis/bpf-loader/kernel';
import type { BpfMap } from '@aegis/bpf-loader/maps';
import { mapCodec, PER_CPU, ValueError } from '@aegis/bpf-loader/values';
import type { MapRule } from '@aegis/protocol/artifacts/manifest';
import { DeployError } from '../deployment.ts';

/** Puts a manifest's initial contents into a map that was just made.
 *  @throws DeployError that names the entry */
export const fillMap = (name: string, map: BpfMap, initial: NonNullable<MapRule['initial']>): void => {
  const info = map.info();
  const btf = info.btfId > 0 && info.btfKeyTypeId + info.btfValueTypeId > 0 ? parseBtf(btfById(info.btfId)) : null;
  const codec = mapCodec(info, btf);
  for (const [at, { key, value }] of initial.entries()) {
    try {
      map.update(
        codec.keyBytes(key),
        PER_CPU.has(info.type) ? everyCpu(map, codec.valueBytes(value)) : codec.valueBytes(value),
      );
    } catch (error) {
      if (!(error instanceof ValueError) && !(error instanceof Error && 'errno' in error)) throw error;
      throw new DeployError(
        'artifacts.load_failed',
        `Entry ${at + 1} of the initial contents of map '${name}' does not go in: ${error.message.replace(/\.?$/, '.')} Correct the manifest and publish a new version.`,
        { cause: error },
      );
    }
  }
};

/** Each CPU begins with the same value. */
const everyCpu = (map: BpfMap, value: Uint8Array): Uint8Array => {
  const { elementBytes, cpus } = map.info();
  const all = Buffer.alloc(elementBytes);
  for (let cpu = 0; cpu < cpus; cpu++) all.set(value, (elementBytes / cpus) * cpu);
  return all;
};
