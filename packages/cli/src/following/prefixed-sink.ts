import type { OutputChunk } from '../api/follow.ts';
import type { Output } from '../ui/output.ts';
import { plainText } from '../ui/plain-text.ts';
import { gapText, type Sink } from './sink.ts';
import { summary } from './summary.ts';

/** Several nodes: whole lines, each behind `node│`, stdout to stdout and stderr to stderr. On a pipe the line's bytes are untouched;
 *  on a terminal its control characters are taken out. A line longer than 64 KiB is broken there, so that no node can fill our memory. */

const LONGEST_LINE = 64 * 1024;
const LF = Buffer.from('\n');

export const prefixedSink = (output: Output, now: () => number, options: { summary: boolean }): Sink => {
  const partial = new Map<string, { node: string; stream: OutputChunk['stream']; bytes: Buffer }>();

  const lineOf = (prefix: Buffer, line: Buffer, terminal: boolean): Buffer =>
    Buffer.concat([prefix, terminal ? Buffer.from(plainText(line.toString('utf8')), 'utf8') : line, LF]);

  const write = async (node: string, stream: OutputChunk['stream'], lines: Buffer[]): Promise<void> => {
    if (lines.length === 0) return;
    const terminal = stream === 'stdout' ? output.outIsTerminal : output.errIsTerminal;
    const prefix = Buffer.from(`${plainText(node)}│`, 'utf8');
    const bytes = Buffer.concat(lines.map((line) => lineOf(prefix, line, terminal)));
    await output[stream === 'stdout' ? 'out' : 'err'](bytes);
  };

  const flush = async (key: string): Promise<void> => {
    const rest = partial.get(key);
    partial.delete(key);
    if (rest) await write(rest.node, rest.stream, [rest.bytes]);
  };

  return {
    chunk: async ({ execution_id, node, stream, bytes }) => {
      const key = `${execution_id}:${stream}`;
      const waiting = partial.get(key)?.bytes;
      let rest = waiting ? Buffer.concat([waiting, bytes]) : bytes;
      const lines: Buffer[] = [];
      for (let end = rest.indexOf(0x0a); end !== -1 || rest.length > LONGEST_LINE; end = rest.indexOf(0x0a)) {
        const cut = end !== -1 && end <= LONGEST_LINE ? end : LONGEST_LINE;
        lines.push(rest.subarray(0, cut));
        rest = rest.subarray(cut === end ? cut + 1 : cut);
      }
      if (rest.length > 0) partial.set(key, { node, stream, bytes: rest });
      else partial.delete(key);
      await write(node, stream, lines);
    },
    gap: async (gap) => {
      await flush(`${gap.execution_id}:${gap.stream}`);
      await output.err(`aegis: ${plainText(gapText(gap))}\n`);
    },
    state: async () => undefined,
    end: async (outcome) => {
      for (const key of [...partial.keys()]) await flush(key);
      if (options.summary)
        await output.err(summary(outcome, now(), output.errIsTerminal ? process.stderr.columns : undefined));
    },
    close: async () => {
      for (const key of [...partial.keys()]) await flush(key);
    },
  };
};
