import type { Output } from './output.ts';

/** For who writes from a callback that cannot wait: lines are gathered while the pipe is busy, and go out in order. */

export interface LineQueue {
  line(text: string): void;
  /** When all is written. @throws ReaderGone */
  flush(): Promise<void>;
}

/** @param onGone told once, when the reader went away: nothing more is written then */
export const lineQueue = (output: Output, onGone: () => void): LineQueue => {
  let waiting = '';
  let failure: unknown = null;
  let running: Promise<void> | null = null;
  const pump = async (): Promise<void> => {
    try {
      while (waiting !== '') {
        const text = waiting;
        waiting = '';
        await output.out(text);
      }
    } catch (error) {
      failure = error;
      onGone();
    } finally {
      running = null;
    }
  };
  return {
    line: (text) => {
      if (failure !== null) return;
      waiting += `${text}\n`;
      running ??= pump();
    },
    flush: async () => {
      while (running) await running;
      if (failure !== null) throw failure;
    },
  };
};
