import type { KernelReport } from '@aegis/protocol/artifacts/status';
import { facts, table } from '../ui/table.ts';

/** A node's kernel report: which kinds of programs work there, and why not. */
export const kernelText = (
  report: KernelReport | null,
  reportedAt: string | null,
  width: number | undefined,
): string => {
  if (report === null) return '\neBPF: the node has not reported which kinds work there.\n';
  const kinds = Object.entries(report.kinds);
  const head = facts([
    ['eBPF kernel', `${report.release} (${report.architecture})`],
    ['reported', reportedAt],
    ['BTF', report.btf ? 'yes' : 'no'],
    ['JIT', report.jit ? 'on' : 'off'],
    ['bpffs', report.bpffs ? 'mounted' : 'not mounted yet'],
    ['cgroup v2', report.cgroup2 ?? 'not mounted'],
  ]);
  const rows = kinds.map(([kind, { works, since, reason }]) => [
    kind,
    works ? 'yes' : 'no',
    since ?? '-',
    reason ?? '',
  ]);
  return `\n${head}\n${table(['KIND', 'WORKS', 'SINCE LINUX', 'WHY NOT'], rows, width)}`;
};
