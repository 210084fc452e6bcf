import type { Output } from '../ui/output.ts';
import type { Answer } from './interrupts.ts';
import { type NodeRow, nodeRows } from './node-rows.ts';
import type { Sink } from './sink.ts';
import { summary } from './summary.ts';

/** Several nodes on a terminal: the ink view while they run, the plain table when they have ended. */

export interface LiveSink extends Sink {
  /** Asks in the view. */
  ask(): Promise<Answer>;
  /** What Ctrl-C does; set once the caller knows. */
  onStrike(strike: () => void): void;
}

const ANSWERS: Readonly<Record<string, Answer>> = { c: 'cancel', d: 'detach', enter: 'keep' };

export const liveSink = async (
  output: Output,
  now: () => number,
  title: string,
  nodes: readonly string[],
): Promise<LiveSink> => {
  const startedAt = now();
  const { showLiveView } = await import('../ui/live-view.tsx');
  const rows = nodeRows(nodes);
  const listeners = new Set<() => void>();
  let answer: ((answer: Answer) => void) | null = null;
  let strike: () => void = () => undefined;
  let state = { title, rows: rows.all() as readonly NodeRow[], startedAt, asking: false };
  // Frames come from the view's own tick: a flood of chunks makes no flood of frames.
  const tick = () => {
    state = { title, rows: rows.all(), startedAt, asking: answer !== null };
    for (const listener of listeners) listener();
  };
  const view = showLiveView(
    {
      subscribe: (listener) => {
        listeners.add(listener);
        return () => listeners.delete(listener);
      },
      current: () => state,
      now,
    },
    {
      strike: () => strike(),
      answer: (key) => {
        const meant = ANSWERS[key];
        if (!meant || !answer) return;
        answer(meant);
        answer = null;
        tick();
      },
    },
    tick,
  );
  let closing: Promise<void> | null = null;
  const close = () => {
    closing ??= view.close();
    return closing;
  };
  return {
    chunk: async ({ node, stream, bytes }) => rows.output(node, stream, bytes),
    gap: async () => undefined, // the summary's logs tell of it
    state: async (execution) => rows.state(execution),
    end: async (outcome) => {
      await close();
      await output.err(summary(outcome, now(), process.stdout.columns));
    },
    close,
    ask: () =>
      new Promise((resolve) => {
        answer = resolve;
        tick();
      }),
    onStrike: (run) => {
      strike = run;
    },
  };
};
