import type { Execution } from './execution.ts';

/** What waits to start: by priority, then by arrival; what has a `not_before` joins when its time has come. */
export interface ExecutionQueue {
  add(execution: Execution): void;
  /** The one whose turn it is, taken out; undefined when nothing may start now. */
  take(nowMs: number): Execution | undefined;
  /** False when it was not waiting. */
  remove(id: string): boolean;
  /** When the next scheduled one is due; null when none is. */
  nextDueMs(): number | null;
  readonly size: number;
  /** Without those whose time has not come. */
  readonly ready: number;
}

const before = (a: Execution, b: Execution): boolean =>
  a.priority !== b.priority ? a.priority > b.priority : a.seq < b.seq;
const dueBefore = (a: Execution, b: Execution): boolean => (a.notBeforeMs ?? 0) < (b.notBeforeMs ?? 0);

export const executionQueue = (): ExecutionQueue => {
  // Sorted arrays, best last: taking is a pop, and adding in order of arrival is nearly one too. The journal bounds the length.
  const ready: Execution[] = [];
  const scheduled: Execution[] = [];
  const waiting = new Set<string>();

  const insert = (into: Execution[], one: Execution, goesFirst: (a: Execution, b: Execution) => boolean): void => {
    let low = 0;
    let high = into.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const other = into[middle];
      if (other && goesFirst(one, other)) low = middle + 1;
      else high = middle;
    }
    into.splice(low, 0, one);
  };
  const removeFrom = (list: Execution[], id: string): void => {
    const at = list.findIndex((one) => one.id === id);
    if (at >= 0) list.splice(at, 1);
  };

  return {
    add: (execution) => {
      if (waiting.has(execution.id)) return;
      waiting.add(execution.id);
      if (execution.notBeforeMs === null) insert(ready, execution, before);
      else insert(scheduled, execution, dueBefore);
    },
    take: (nowMs) => {
      for (let next = scheduled.at(-1); next && (next.notBeforeMs ?? 0) <= nowMs; next = scheduled.at(-1)) {
        scheduled.pop();
        insert(ready, next, before);
      }
      const taken = ready.pop();
      if (taken) waiting.delete(taken.id);
      return taken;
    },
    remove: (id) => {
      if (!waiting.delete(id)) return false;
      removeFrom(ready, id);
      removeFrom(scheduled, id);
      return true;
    },
    nextDueMs: () => scheduled.at(-1)?.notBeforeMs ?? null,
    get size() {
      return waiting.size;
    },
    get ready() {
      return ready.length;
    },
  };
};
