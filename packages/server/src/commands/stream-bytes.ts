import type { Stream } from '@aegis/protocol/commands/carrier';
import { isFinal } from '@aegis/protocol/commands/state';
import { AegisError } from '@aegis/protocol/errors';
import type { Bus } from '../platform/bus.ts';
import type { Clock } from '../platform/clock.ts';
import type { Within } from '../platform/node-scope.ts';
import { wakeup } from '../platform/wakeup.ts';
import { nodeStillEndsMs } from './cancelled-here.ts';
import { outputTopic } from './changes.ts';
import { nextOf, STREAM_NUMBER } from './chunk-plan.ts';
import type { ListingRepository } from './listing-repository.ts';
import type { OutputRepository } from './output-repository.ts';
import { storedRows } from './stored-stream.ts';
import type { ExecutionRow } from './tables.ts';

/** One stream of one execution as the bytes that exist: a gap is left out and named beside it. Offsets of the command's own
 *  stream count gaps, positions in these bytes do not. */

export interface Gap {
  start: number;
  length: number;
  reason: string;
}
export interface StreamBytes {
  execution: ExecutionRow;
  stream: Stream;
  /** How many bytes are stored now, and whether more may come. */
  stored: number;
  complete: boolean;
  gaps: readonly Gap[];
  /** Bytes from a position on, `length` of them. */
  read(position: number, length: number): AsyncGenerator<Buffer>;
  /** Bytes from an offset on until the execution has ended. */
  follow(offset: number, signal: AbortSignal): AsyncGenerator<Buffer>;
  /** The position of an offset: an offset inside a gap has that of the gap's end. */
  positionOf(offset: number): number;
}

const GAPS_AT_ONCE = 1000;
/** More than a well-behaved node ever makes; beyond it positions cannot be told. */
const MOST_GAPS = 100_000;

export const streamBytes = (on: { listing: ListingRepository; output: OutputRepository; bus: Bus; clock: Clock }) => {
  const { listing, output, bus, clock } = on;

  const gapsOf = async (row: ExecutionRow, stream: Stream): Promise<Gap[]> => {
    const gaps: Gap[] = [];
    if (row[`${stream}_missing`] === 0) return gaps;
    for (;;) {
      const last = gaps.at(-1);
      const page = await output.gaps(row.id, STREAM_NUMBER[stream], last ? last.start + 1 : 0, GAPS_AT_ONCE);
      for (const gap of page) gaps.push({ start: gap.start, length: gap.length, reason: gap.gap_reason ?? '' });
      if (page.length < GAPS_AT_ONCE) return gaps;
      if (gaps.length >= MOST_GAPS)
        throw new AegisError(
          'http.too_large',
          'This stream has too many gaps to be read as bytes. Read it as application/x-ndjson.',
        );
    }
  };

  async function* bytesBetween(executionId: string, stream: Stream, from: number, end: number): AsyncGenerator<Buffer> {
    for await (const row of storedRows(output, executionId, stream, from, end)) if (row.bytes) yield row.bytes;
  }

  /** @throws AegisError commands.unknown_command, commands.unknown_execution, http.malformed when it is not one execution */
  return async (
    commandId: string,
    of: { within: Within; node: string | undefined; attempt: number | undefined; stream: Stream },
  ): Promise<StreamBytes> => {
    const { stream } = of;
    const row = await theExecution(listing, commandId, of);
    const next = nextOf(row)[stream];
    const gaps = await gapsOf(row, stream);
    return {
      execution: row,
      stream,
      stored: next - row[`${stream}_missing`],
      complete: isFinal(row.state),
      gaps,
      positionOf: (offset) => offset - missingBefore(gaps, Math.min(offset, next)),
      read: async function* (position, length) {
        let left = length;
        for await (const bytes of bytesBetween(row.id, stream, offsetOf(gaps, position), next)) {
          const part = bytes.subarray(0, left);
          if (part.length > 0) yield part;
          left -= part.length;
          if (left === 0) return;
        }
      },
      follow: async function* (offset, signal) {
        const sleeper = wakeup();
        let endsBy: number | null = null;
        using _changes = bus.subscribe(outputTopic(row.id), sleeper.wake);
        signal.addEventListener('abort', sleeper.wake, { once: true });
        try {
          for (let at = offset; !signal.aborted; ) {
            const [now] = await listing.executionsByIds([row.id], of.within);
            if (!now) return; // deleted, or its node left the scope
            const end = nextOf(now)[stream];
            for await (const bytes of bytesBetween(row.id, stream, at, end)) {
              yield bytes;
              if (signal.aborted) return;
            }
            at = Math.max(at, end);
            if (!isFinal(now.state)) {
              await sleeper.wait(null);
              continue;
            }
            const payload = now.presumed === 1 ? (await listing.command(commandId, of.within))?.payload : undefined;
            const stillMs = payload === undefined ? 0 : nodeStillEndsMs(now, payload, clock.now());
            if (stillMs <= 0) return;
            endsBy ??= performance.now() + stillMs;
            if (endsBy <= performance.now()) return;
            await sleeper.wait(endsBy - performance.now());
          }
        } finally {
          signal.removeEventListener('abort', sleeper.wake);
        }
      },
    };
  };
};
export type StreamBytesOf = ReturnType<typeof streamBytes>;

const theExecution = async (
  listing: ListingRepository,
  commandId: string,
  of: { within: Within; node: string | undefined; attempt: number | undefined },
): Promise<ExecutionRow> => {
  const keys = (await listing.executionKeys(commandId, of.within)).filter(
    ({ node_uid, node_name }) => of.node === undefined || of.node === node_uid || of.node === node_name,
  );
  if (keys.length === 0) await listing.commandOrThrow(commandId, of.within);
  if (new Set(keys.map((key) => key.node_uid)).size > 1)
    throw new AegisError('http.malformed', 'This command went to several nodes: say which one with node=NAME.');
  const wanted = keys.find((key) => (of.attempt === undefined ? key.newest === 1 : key.attempt === of.attempt));
  const [row] = wanted ? await listing.executionsByIds([wanted.id], of.within) : [];
  if (!row)
    throw new AegisError(
      'commands.unknown_execution',
      "The command has no such attempt on such a node. See 'aegis commands show'.",
    );
  return row;
};

const missingBefore = (gaps: readonly Gap[], offset: number): number =>
  gaps.reduce((sum, { start, length }) => sum + Math.max(0, Math.min(length, offset - start)), 0);

/** The offset of the byte at a position: behind every gap that begins at or before it. */
const offsetOf = (gaps: readonly Gap[], position: number): number => {
  let missing = 0;
  for (const { start, length } of gaps) {
    if (start - missing > position) break;
    missing += length;
  }
  return position + missing;
};
