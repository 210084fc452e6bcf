import type { Stream } from '@aegis/protocol/commands/carrier';
import { STREAM_NUMBER } from './chunk-plan.ts';
import type { OutputRepository } from './output-repository.ts';
import type { OutputRow } from './tables.ts';

/** Stored output read forward, a few rows at a time: what a reader holds does not grow with the stream. */

const ROWS_AT_ONCE = 2;

/** Rows of a stream from an offset up to `end`, the first and last cut to fit. */
export async function* storedRows(
  repository: OutputRepository,
  executionId: string,
  stream: Stream,
  from: number,
  end: number,
): AsyncGenerator<OutputRow> {
  let at = from;
  while (at < end) {
    const rows = await repository.slice(executionId, STREAM_NUMBER[stream], at, ROWS_AT_ONCE);
    if (rows.length === 0) return; // deleted meanwhile
    for (const row of rows) {
      if (at >= end) return;
      const cut = cutRow(row, at, end);
      yield cut;
      at = cut.start + cut.length;
    }
  }
}

const cutRow = (row: OutputRow, from: number, end: number): OutputRow => {
  const start = Math.max(row.start, from);
  const length = Math.min(row.start + row.length, end) - start;
  if (start === row.start && length === row.length) return row;
  const skip = start - row.start;
  return { ...row, start, length, bytes: row.bytes?.subarray(skip, skip + length) ?? null };
};

/** Several streams as one, in the order in which their rows were stored. */
export async function* merged<S>(
  sources: readonly { tag: S; rows: AsyncGenerator<OutputRow> }[],
): AsyncGenerator<{ tag: S; row: OutputRow }> {
  const heads: { tag: S; rows: AsyncGenerator<OutputRow>; row: OutputRow }[] = [];
  for (const { tag, rows } of sources) {
    const first = await rows.next();
    if (!first.done) heads.push({ tag, rows, row: first.value });
  }
  for (;;) {
    const [first, ...others] = heads;
    if (!first) return;
    const head = others.reduce((best, one) => (one.row.stored_at < best.row.stored_at ? one : best), first);
    yield { tag: head.tag, row: head.row };
    const next = await head.rows.next();
    if (next.done) heads.splice(heads.indexOf(head), 1);
    else head.row = next.value;
  }
}
