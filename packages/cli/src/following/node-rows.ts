import type { ExecutionState } from '@aegis/protocol/commands/state';
import type { Execution } from '@aegis/protocol/commands/submission';
import { plainText } from '../ui/plain-text.ts';
import { hasEnded } from './exit-status.ts';

/** What the live view shows of each node, and which nodes when there are more than lines. Pure. */

export interface NodeRow {
  node: string;
  state: ExecutionState;
  attempt: number;
  exit: string;
  startedAt: string | null;
  finishedAt: string | null;
  lastLine: string;
}

const LONGEST_KEPT = 400;

export const nodeRows = (nodes: readonly string[]) => {
  const rows = new Map<string, NodeRow>(
    nodes.map((node) => [
      node,
      { node, state: 'queued', attempt: 1, exit: '', startedAt: null, finishedAt: null, lastLine: '' },
    ]),
  );
  const open = new Map<string, string>();
  const rowOf = (node: string): NodeRow => {
    const row = rows.get(node) ?? {
      node,
      state: 'queued',
      attempt: 1,
      exit: '',
      startedAt: null,
      finishedAt: null,
      lastLine: '',
    };
    rows.set(node, row);
    return row;
  };
  return {
    all: (): NodeRow[] => [...rows.values()],
    state: (execution: Execution): void => {
      const row = rowOf(execution.node);
      if (execution.attempt < row.attempt) return;
      const { state, attempt, exit_code, signal, started_at, finished_at, error } = execution;
      const exit = exit_code !== null ? String(exit_code) : (signal ?? '');
      rows.set(row.node, { ...row, state, attempt, exit, startedAt: started_at, finishedAt: finished_at });
      if (error && hasEnded(execution)) rowOf(row.node).lastLine = plainText(error.message);
    },
    /** Only the tail matters: of a chunk of megabytes the last few hundred bytes are looked at. */
    output: (node: string, stream: string, bytes: Buffer): void => {
      const key = `${node}\n${stream}`;
      const tail = bytes.subarray(Math.max(0, bytes.length - 4 * LONGEST_KEPT)).toString('utf8');
      const lines = ((bytes.length > 4 * LONGEST_KEPT ? '' : (open.get(key) ?? '')) + tail).split('\n');
      open.set(key, (lines.at(-1) ?? '').slice(-LONGEST_KEPT));
      // A carriage return starts the line over, as progress bars do.
      const shown = lines.map((line) =>
        plainText(
          line
            .split('\r')
            .filter((part) => part !== '')
            .at(-1) ?? '',
        ).trim(),
      );
      const last = shown.findLast((line) => line !== '');
      if (last !== undefined) rowOf(node).lastLine = last.slice(0, LONGEST_KEPT);
    },
  };
};
export type NodeRows = ReturnType<typeof nodeRows>;

const INTEREST: Readonly<Record<ExecutionState, number>> = {
  failed: 0,
  timed_out: 0,
  lost: 0,
  refused: 0,
  expired: 0,
  cancelled: 1,
  running: 2,
  delivered: 3,
  queued: 4,
  succeeded: 5,
};

const byName = (a: NodeRow, b: NodeRow): number => (a.node < b.node ? -1 : a.node > b.node ? 1 : 0);

/** All rows by name when they fit; else the most interesting ones (failed, then running, …), and the others as counts. */
export const visibleRows = (
  rows: readonly NodeRow[],
  room: number,
): { shown: NodeRow[]; hidden: Map<ExecutionState, number> } => {
  const sorted = [...rows].sort(byName);
  if (rows.length <= room) return { shown: sorted, hidden: new Map() };
  sorted.sort((a, b) => INTEREST[a.state] - INTEREST[b.state] || byName(a, b));
  const hidden = new Map<ExecutionState, number>();
  for (const { state } of sorted.slice(Math.max(0, room))) hidden.set(state, (hidden.get(state) ?? 0) + 1);
  return { shown: sorted.slice(0, Math.max(0, room)), hidden };
};

export const countsText = (counts: ReadonlyMap<ExecutionState, number>): string =>
  [...counts].map(([state, count]) => `${count} ${state}`).join(', ');

export const countStates = (rows: readonly NodeRow[]): Map<ExecutionState, number> => {
  const counts = new Map<ExecutionState, number>();
  for (const { state } of rows) counts.set(state, (counts.get(state) ?? 0) + 1);
  return counts;
};
