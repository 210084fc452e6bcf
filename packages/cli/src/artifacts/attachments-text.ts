import { table } from '../ui/table.ts';

/** What `aegis daemon attachments` found, for people. */

export interface LocalLink {
  program: string;
  hook: string;
  /** `attached`; `detached`: the hook is gone or was taken off; `missing`: its pin is not there. */
  state: 'attached' | 'detached' | 'missing';
  link_id: number | null;
  program_id: number | null;
  program_tag: string | null;
  /** Zero until BPF statistics are on. */
  run_count: number;
  run_time_ns: number;
}
export interface LocalArtifact {
  name: string;
  /** Wished, as the daemon's journal has it; null once unassigned, or where the journal does not know it. */
  version: string | null;
  /** What the daemon attached last. */
  running_version: string | null;
  generation: number | null;
  state: string;
  reason: { code: string; message: string } | null;
  links: LocalLink[];
}
export interface LocalAttachments {
  node: string;
  uid: string;
  /** Who told what is wished: the daemon now, or its journal, which holds what was last seen. Links are the kernel's own word. */
  source: 'daemon' | 'journal';
  artifacts: LocalArtifact[];
}

export const attachmentsText = ({ artifacts }: LocalAttachments, width: number | undefined): string => {
  const rows = artifacts.flatMap(({ name, version, running_version, state, reason, links }) => {
    const head = [name, running_version ?? version ?? '-', reason ? `${state} (${reason.code})` : state];
    if (links.length === 0) return [[...head, '-', '-', '-', '-', '-']];
    return links.map((link) => [
      ...head,
      link.program,
      link.state === 'attached' ? link.hook : `${link.hook} (${link.state})`,
      link.link_id === null ? '-' : String(link.link_id),
      link.program_id === null ? '-' : String(link.program_id),
      String(link.run_count),
    ]);
  });
  return table(['ARTIFACT', 'VERSION', 'STATE', 'PROGRAM', 'HOOK', 'LINK', 'PROGRAM ID', 'RUNS'], rows, width);
};
