import type { Execution } from '@aegis/protocol/commands/submission';
import type { AegisError } from '@aegis/protocol/errors';
import { endText } from '../following/raw-sink.ts';
import { saidError } from '../following/said-error.ts';
import type { Outcome, Sink } from '../following/sink.ts';

/** What a node's own `aegis backups run --once` or `restore --on-this-node` writes, a JSON object a line: how far it is, and at last how it
 *  ended. The node is a peer like any other: what is no such line is passed over, and a line has a bound. */

export type Fields = Readonly<Record<string, unknown>>;
const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export interface NodeLine {
  type: 'progress' | 'run' | 'restore';
  fields: Fields;
}

/** Null for whatever else it is. */
export const nodeLineOf = (value: unknown): NodeLine | null => {
  if (!isFields(value)) return null;
  const { type, ...fields } = value;
  return type === 'progress' || type === 'run' || type === 'restore' ? { type, fields } : null;
};

export const textOf = (value: unknown): string | null => (typeof value === 'string' ? value : null);
export const countOf = (value: unknown): number | null =>
  typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : null;

/** How one node ended. */
export interface NodeEnd {
  node: string;
  /** Its last line; null when there was none. */
  fields: Fields | null;
  /** What it refused with. */
  refusal: AegisError | null;
  /** Why there is no last line, as far as that is known. */
  why: string | null;
}

const MAX_LINE_BYTES = 4 * 1024 * 1024;
const MAX_STDERR_CHARS = 64 * 1024;

export interface NodeLinesSink extends Sink {
  readonly ends: readonly NodeEnd[];
}

export const nodeLinesSink = (
  onLine: (node: string, line: NodeLine) => Promise<void>,
  say: (text: string) => Promise<void>,
): NodeLinesSink => {
  const rests = new Map<string, Buffer>();
  const stderrs = new Map<string, string>();
  const lasts = new Map<string, Fields>();
  const ends: NodeEnd[] = [];

  const take = async (node: string, line: Buffer): Promise<void> => {
    let value: unknown;
    try {
      value = JSON.parse(line.toString('utf8'));
    } catch {
      return; // no line of ours
    }
    const parsed = nodeLineOf(value);
    if (!parsed) return;
    if (parsed.type !== 'progress') lasts.set(node, parsed.fields);
    await onLine(node, parsed);
  };

  return {
    ends,
    chunk: async ({ node, stream, bytes }) => {
      if (stream === 'stderr') {
        const text = (stderrs.get(node) ?? '') + bytes.toString('utf8');
        stderrs.set(node, text.slice(-MAX_STDERR_CHARS));
        return;
      }
      let rest = Buffer.concat([rests.get(node) ?? Buffer.alloc(0), bytes]);
      for (let end = rest.indexOf(0x0a); end !== -1; end = rest.indexOf(0x0a)) {
        await take(node, rest.subarray(0, end));
        rest = rest.subarray(end + 1);
      }
      rests.set(node, rest.length > MAX_LINE_BYTES ? Buffer.alloc(0) : Buffer.from(rest));
    },
    gap: async ({ node, gap }) => {
      rests.delete(node);
      await say(`${node}: ${gap} bytes of what it said are missing.`);
    },
    state: async () => undefined,
    end: async ({ executions }: Outcome) => {
      for (const execution of executions) ends.push(endOf(execution, lasts, stderrs.get(execution.node) ?? ''));
    },
    close: async () => undefined,
  };
};

const endOf = (execution: Execution, lasts: ReadonlyMap<string, Fields>, stderr: string): NodeEnd => {
  const { node } = execution;
  const fields = lasts.get(node) ?? null;
  const refusal = saidError(stderr);
  const why = fields
    ? null
    : (refusal?.message ?? endText(execution) ?? (stderr.trim().slice(0, 500) || execution.state));
  return { node, fields, refusal, why };
};
