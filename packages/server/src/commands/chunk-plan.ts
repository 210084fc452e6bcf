import type { Stream } from '@aegis/protocol/commands/carrier';
import { AegisError } from '@aegis/protocol/errors';
import type { ExecutionRow, OutputRow } from './tables.ts';

/** Where arriving output goes: contiguous from offset 0, what is stored already trimmed, gaps kept as gaps. Pure. */

/** A chunk with its bytes decoded. */
export type PlacedChunk =
  | { stream: Stream; offset: number; bytes: Buffer }
  | { stream: Stream; offset: number; gap: number; reason: string };

export const STREAM_NUMBER = { stdout: 1, stderr: 2 } as const satisfies Record<Stream, number>;
/** Longest row of output. */
export const ROW_BYTES = 1024 * 1024;
/** A node may exceed an output limit by this much before it is refused: it cuts between chunks. */
const LIMIT_SLACK_BYTES = 1024 * 1024;

type Totals = Pick<
  ExecutionRow,
  'id' | 'stdout_next' | 'stdout_missing' | 'stdout_bytes' | 'stderr_next' | 'stderr_missing' | 'stderr_bytes'
>;

export interface ChunkPlan {
  rows: OutputRow[];
  /** The bytes that the plan adds to each stream, in order, for hashing. */
  added: { stream: Stream; from: number; bytes: Buffer }[];
  next: { stdout: number; stderr: number };
  missing: { stdout: number; stderr: number };
  /** Set when a chunk could not be placed: nothing of it is in the plan, what was placed before it is. */
  error: AegisError | null;
}

export const nextOf = (row: Totals): { stdout: number; stderr: number } => ({
  stdout: row.stdout_next,
  stderr: row.stderr_next,
});

/** @param limitBytes of stored bytes per stream; 0 = none */
export const planChunks = (
  row: Totals,
  chunks: readonly PlacedChunk[],
  limitBytes: number,
  storedAt: number,
): ChunkPlan => {
  const plan: ChunkPlan = {
    rows: [],
    added: [],
    next: nextOf(row),
    missing: { stdout: row.stdout_missing, stderr: row.stderr_missing },
    error: null,
  };
  // Within one request the order of the chunks does not matter.
  const ordered = chunks.length > 1 ? [...chunks].sort((a, b) => a.offset - b.offset) : chunks;
  for (const chunk of ordered) {
    plan.error = refusalOf(row, plan, chunk, limitBytes);
    if (plan.error) break;
    place(row.id, plan, chunk, storedAt);
  }
  return plan;
};

const lengthOf = (chunk: PlacedChunk): number => ('gap' in chunk ? chunk.gap : chunk.bytes.length);

const refusalOf = (row: Totals, plan: ChunkPlan, chunk: PlacedChunk, limitBytes: number): AegisError | null => {
  const { stream, offset } = chunk;
  const next = plan.next[stream];
  const end = offset + lengthOf(chunk);
  const total = stream === 'stdout' ? row.stdout_bytes : row.stderr_bytes;
  if (!Number.isSafeInteger(end))
    return new AegisError('http.malformed', `${stream} cannot reach beyond 2^53 bytes. Check the offset.`);
  if (offset > next)
    return new AegisError(
      'commands.offset_ahead',
      `${stream} is stored up to ${next}; what begins at ${offset} would leave a hole. Send from ${next} on.`,
      { details: { execution_id: row.id, next: { ...plan.next } } },
    );
  if (total !== null && end > total)
    return new AegisError(
      'commands.report_mismatch',
      `The final report said that ${stream} has ${total} bytes; this would be more. Nothing of it was stored.`,
      { details: { execution_id: row.id, next: { ...plan.next } } },
    );
  const stored = end - plan.missing[stream];
  if (!('gap' in chunk) && limitBytes > 0 && end > next && stored > limitBytes + LIMIT_SLACK_BYTES)
    return new AegisError(
      'commands.output_limit',
      `${stream} would have ${stored} stored bytes; this command's limit is ${limitBytes}. Send a gap with the reason 'output_limit' instead.`,
      { details: { execution_id: row.id, limit_bytes: limitBytes, next: { ...plan.next } } },
    );
  return null;
};

const place = (executionId: string, plan: ChunkPlan, chunk: PlacedChunk, storedAt: number): void => {
  const { stream } = chunk;
  const from = plan.next[stream];
  const known = from - chunk.offset;
  const length = lengthOf(chunk) - known;
  if (length <= 0) return;
  const row = { execution_id: executionId, stream: STREAM_NUMBER[stream], stored_at: storedAt };
  if ('gap' in chunk) {
    plan.rows.push({ ...row, start: from, length, gap_reason: chunk.reason, bytes: null });
    plan.missing[stream] += length;
  } else {
    const bytes = chunk.bytes.subarray(known);
    plan.added.push({ stream, from, bytes });
    addRows(plan, row, from, bytes);
  }
  plan.next[stream] = from + length;
};

/** Many tiny chunks of one request become one row; a large one becomes slices (no copy). */
const addRows = (
  plan: ChunkPlan,
  row: Pick<OutputRow, 'execution_id' | 'stream' | 'stored_at'>,
  from: number,
  bytes: Buffer,
): void => {
  const last = plan.rows.at(-1);
  if (
    last?.bytes &&
    last.stream === row.stream &&
    last.start + last.length === from &&
    last.length + bytes.length <= JOIN_BYTES
  ) {
    last.bytes = Buffer.concat([last.bytes, bytes]);
    last.length = last.bytes.length;
    return;
  }
  for (let at = 0; at < bytes.length; at += ROW_BYTES) {
    const slice = bytes.subarray(at, at + ROW_BYTES);
    plan.rows.push({ ...row, start: from + at, length: slice.length, gap_reason: null, bytes: slice });
  }
};
const JOIN_BYTES = 16 * 1024;
