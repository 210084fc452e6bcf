import type { FaultPoints } from '@aegis/protocol/fault-points';
import type { DaemonConfig } from '../config.ts';
import type { Clock } from '../platform/clock.ts';
import type { Logger } from '../platform/log.ts';
import type { KernelEngine } from './deployment.ts';

/** The engine over libbpf, when the first artifact needs it: a node without artifacts never loads it. */
export const loadKernelEngine = async (
  nodeUid: string,
  { bpffs, cgroup_root, bpf_statistics }: DaemonConfig,
  rest: { clock: Clock; faults: FaultPoints; log: Logger },
): Promise<KernelEngine> => {
  const { kernelEngine } = await import('./kernel/engine.ts');
  const engine = kernelEngine({
    nodeUid,
    bpffs,
    ...(cgroup_root === 'auto' ? {} : { cgroupRoot: cgroup_root }),
    ...rest,
  });
  if (bpf_statistics) countRuns(engine, rest.log);
  return engine;
};

/** What cannot be counted runs all the same. */
const countRuns = (engine: { statistics(on: boolean): void }, log: Logger): void => {
  try {
    engine.statistics(true);
  } catch (error) {
    log.warn({ err: error }, 'runs of eBPF programs are not counted (bpf_statistics)');
  }
};
