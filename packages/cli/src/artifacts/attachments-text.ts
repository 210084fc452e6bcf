import { table } from '../ui/table.ts';
import { duration } from '../ui/time.ts';

/** What `aegis daemon attachments` found, and what `--measure` counted, for people. */

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
/** The runs of a link's program while it was measured, at all hooks of that program together. */
export interface MeasuredRuns {
  runs: number;
  runs_per_sec: number;
  time_ns: number;
  /** Of one run, on average; null when there was none. */
  ns_per_run: number | null;
}
export interface LocalArtifact<Link = LocalLink> {
  name: string;
  /** Wished, as the daemon's journal has it; null once unassigned, or where the journal does not know it. */
  version: string | null;
  /** What the daemon attached last. */
  running_version: string | null;
  generation: number | null;
  state: string;
  reason: { code: string; message: string } | null;
  links: Link[];
}
export interface LocalAttachments<Link = LocalLink> {
  node: string;
  uid: string;
  /** Who told what is wished: the daemon now, or its journal, which holds what was last seen. Links are the kernel's own word. */
  source: 'daemon' | 'journal';
  artifacts: LocalArtifact<Link>[];
}
/** `measured` is null where no program was attached at the end. */
export type MeasuredAttachments = LocalAttachments<LocalLink & { measured: MeasuredRuns | null }> & {
  /** How long it really was. */
  measured_ms: number;
};

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

const figure = (value: number | null | undefined): string =>
  value === null || value === undefined ? '-' : String(value);

export const measuredText = ({ artifacts }: MeasuredAttachments, width: number | undefined): string => {
  const rows = artifacts.flatMap(({ name, version, running_version, links }) =>
    links.map(({ program, hook, state, program_id, measured }) => [
      name,
      running_version ?? version ?? '-',
      program,
      figure(program_id),
      figure(measured?.runs),
      figure(measured?.runs_per_sec),
      figure(measured?.time_ns),
      figure(measured?.ns_per_run),
      state === 'attached' ? hook : `${hook} (${state})`,
    ]),
  );
  const head = ['ARTIFACT', 'VERSION', 'PROGRAM', 'PROGRAM ID', 'RUNS', 'RUNS/S', 'TOTAL NS', 'NS/RUN', 'HOOK'];
  return table(head, rows, width);
};

export const measuredNote = ({ artifacts, measured_ms }: MeasuredAttachments): string =>
  artifacts.length === 0 ? 'this node has no artifacts.' : `measured for ${duration(measured_ms)}.`;
