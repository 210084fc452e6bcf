import type { NodeArtifact } from '@aegis/protocol/artifacts/endpoints';
import type { AttachmentReport } from '@aegis/protocol/artifacts/status';
import type { Api } from '../api/client.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { plainText } from '../ui/plain-text.ts';
import { table } from '../ui/table.ts';

/** An artifact's state on each node, as the server tells it and as a table shows it. */

export interface StatusFilter {
  name?: string | undefined;
  node?: string | undefined;
}

export const statusOf = async (api: Api, { name, node }: StatusFilter): Promise<NodeArtifact[]> => {
  const items: NodeArtifact[] = [];
  const pages = everyPage((cursor) => api.call(routes.artifactStatus, { query: { name, node, limit: 1000, cursor } }));
  for await (const page of pages) items.push(...page.items);
  return items;
};

const HEAD = ['ARTIFACT', 'NODE', 'VERSION', 'STATE', 'ATTACHED', 'DRIFT', 'NOTE'] as const;
const NOTE = HEAD.length - 1;
/** Left out, in this order, where a terminal is so narrow that too little of the notes would be seen; but for the runs only columns that say nothing. */
const SPARE = ['DRIFT', 'ATTACHED', 'VERSION', 'ARTIFACT', 'RUNS'] as const;
const NOTE_WIDTH = 16;

/** With the runs that were counted, where there are any. @param more rows of `HEAD` for what has no report any more */
export const statusTable = (
  items: readonly NodeArtifact[],
  width: number | undefined,
  more: readonly (readonly string[])[] = [],
): string => {
  const runs = items.map(runsOf);
  const rows = [...items.map(statusRow), ...more];
  const counted = runs.some((count) => count > 0);
  const shown = [HEAD, ...rows].map((row, index) => {
    const count = index === 0 ? 'RUNS' : String(runs[index - 1] ?? '-');
    return counted ? row.toSpliced(NOTE, 0, count) : [...row];
  });
  const [head = [], ...body] = width === undefined ? shown : fitted(shown, width);
  return table(head, body, width);
};

/** Whether a column differs between nodes, or from what is well. */
const tells: Readonly<Record<(typeof SPARE)[number], (cells: readonly string[]) => boolean>> = {
  DRIFT: (cells) => cells.some((cell) => cell !== '0'),
  ATTACHED: (cells) => cells.some((cell) => new Set(cell.split('/')).size > 1),
  VERSION: (cells) => new Set(cells).size > 1,
  ARTIFACT: (cells) => new Set(cells).size > 1,
  RUNS: () => false,
};

const fitted = (rows: string[][], width: number): string[][] => {
  const wanted = Math.min(NOTE_WIDTH, widest(rows, (rows[0]?.length ?? 1) - 1));
  let fitting = rows;
  for (const name of SPARE) {
    if (room(fitting, width) >= wanted) break;
    const column = fitting[0]?.indexOf(name) ?? -1;
    if (column === -1) continue;
    const cells = fitting.slice(1).map((row) => row[column] ?? '');
    if (!tells[name](cells)) fitting = fitting.map((row) => row.toSpliced(column, 1));
  }
  return fitting;
};

const widest = (rows: readonly (readonly string[])[], column: number): number =>
  rows.reduce((most, row) => Math.max(most, [...plainText(row[column] ?? '')].length), 0);

/** What is left of a line for its last column. */
const room = (rows: readonly (readonly string[])[], width: number): number =>
  (rows[0] ?? []).slice(0, -1).reduce((left, _, column) => left - widest(rows, column) - 2, width);

/** Programs that are attached at several hooks count once. */
const runsOf = ({ report }: NodeArtifact): number => {
  const programs = new Map((report?.attachments ?? []).map((one) => [one.program_id, one.run_count ?? 0]));
  return [...programs.values()].reduce((sum, count) => sum + count, 0);
};

export const statusRow = (item: NodeArtifact): string[] => {
  const { report } = item;
  const attachments = report?.attachments ?? [];
  const attached = attachments.filter(({ state }) => state === 'attached').length;
  return [
    item.name,
    item.online ? item.node : `${item.node} (offline)`,
    item.version ?? '-',
    item.version === null && item.state !== 'detached' ? `${item.state} (to be taken off)` : item.state,
    attachments.length > 0 ? `${attached}/${attachments.length}` : '-',
    String(report?.drift.length ?? 0),
    noteOf(item, attachments),
  ];
};

/** Why it is not as it should be; else where it is attached. */
const noteOf = ({ report, state }: NodeArtifact, attachments: readonly AttachmentReport[]): string => {
  if (report?.reason) {
    const { code, message, version } = report.reason;
    return version !== undefined && version !== report.version
      ? `${version} failed (${code}), ${report.version} runs: ${message}`
      : `${code}: ${message}`;
  }
  const waiting = attachments.filter((one) => one.state === 'waiting' || one.state === 'failed');
  const shown = waiting.length > 0 ? waiting : state === 'attached' ? attachments : [];
  return shown.map((one) => (one.reason ? `${hookText(one)} (${one.reason})` : hookText(one))).join('; ');
};

/** The wished hook may be a glob: the interface that it came to belongs with it. */
const hookText = ({ hook, interface: name }: AttachmentReport): string =>
  name === undefined || hook.split(' ').includes(name) ? hook : `${hook} (${name})`;
