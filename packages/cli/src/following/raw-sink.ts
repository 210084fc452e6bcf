import type { Execution } from '@aegis/protocol/commands/submission';
import type { Output } from '../ui/output.ts';
import { plainText } from '../ui/plain-text.ts';
import { gapText, type Sink } from './sink.ts';

/** One node: its bytes to our own stdout and stderr, untouched. What we have to say ourselves goes to stderr.
 *  `ontoStdout`: whichever stream comes goes to stdout, for who has asked for one stream by name. */
export const rawSink = (output: Output, { ontoStdout = false } = {}): Sink => ({
  chunk: ({ stream, bytes }) => output[ontoStdout || stream === 'stdout' ? 'out' : 'err'](bytes),
  gap: (gap) => output.err(`aegis: ${plainText(gapText(gap))}\n`),
  state: async ({ attempt, node, state }) => {
    if (attempt > 1 && state === 'running') await output.err(`aegis: ${plainText(node)}: attempt ${attempt}\n`);
  },
  end: async ({ executions }) => {
    for (const execution of executions) {
      const text = endText(execution);
      if (text) await output.err(`aegis: ${plainText(text)}\n`);
    }
  },
  close: async () => undefined,
});

/** What the exit status alone does not tell; nothing when it does. */
export const endText = ({ node, state, error, signal, exit_code }: Execution): string | null => {
  const why = error ? ` ${error.message}` : '';
  switch (state) {
    case 'timed_out':
      return `${node}: timed out.${why}`;
    case 'cancelled':
      return `${node}: cancelled.${why}`;
    case 'expired':
      return `${node}: expired before the node took it.${why} Is its daemon running? See 'aegis nodes show ${node}'.`;
    case 'refused':
      return `${node}: refused.${why}`;
    case 'lost':
      return `${node}: lost: whether it ended, and how, is unknown.${why}`;
    case 'failed':
      return error || (exit_code === null && signal === null) ? `${node}: failed.${why}` : null;
    default:
      return null;
  }
};
