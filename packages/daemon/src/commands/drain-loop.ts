import { isUtf8 } from 'node:buffer';
import { join } from 'node:path';
import { listSegments, type Segment } from '@aegis/native/execution-folder';
import { type Chunk, type NextOffsets, STREAMS, type Stream } from '@aegis/protocol/commands/carrier';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { pause } from '../platform/clock.ts';
import { Unreachable } from '../platform/http/client.ts';
import type { Logger } from '../platform/log.ts';
import { errnoOf } from '../platform/process.ts';
import type { Execution } from './execution.ts';
import { type OutputPlan, planOutput } from './output-limit.ts';
import type { RequestSize } from './request-size.ts';
import { segmentReader, unlinkIfThere } from './segment-reader.ts';
import type { UploadLane } from './upload-lane.ts';

/** One loop per execution with output: reads segments, sends them, unlinks what the server holds or the limit's middle does not keep.
 *  What is left of an ended execution and small travels inside its report instead (`remainder`). */

export interface DrainOptions {
  root: string;
  spoolBytes: number;
  carrier: {
    sendOutput(executionId: string, stream: Stream, offset: number, bytes: Uint8Array): Promise<NextOffsets>;
    sendChunks(commandId: string, executionId: string, chunks: readonly Chunk[]): Promise<NextOffsets>;
  };
  lane: UploadLane;
  size: RequestSize;
  /** An ended execution has nothing left but what its report can carry. */
  onDrained(execution: Execution): void;
  log: Logger;
  signal: AbortSignal;
}

/** Output that comes in drops is gathered this long. */
const COALESCE_MS = 20;
const REMAINDER_BYTES = 64 * 1024;
const REMAINDER_CHUNKS = 16;
const REFUSED_AGAIN_MS = 5000;

export type DrainLoop = ReturnType<typeof drainLoop>;

export const drainLoop = ({ root, spoolBytes, carrier, lane, size, onDrained, log, signal }: DrainOptions) => {
  const working = new Set<string>();
  const again = new Set<string>();
  const timers = new Map<string, NodeJS.Timeout>();
  const reader = segmentReader({ log });

  const segmentsOf = (execution: Execution, stream: Stream): Segment[] => {
    try {
      return listSegments(join(root, execution.id), stream);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return []; // never started, or removed: what is missing becomes a gap
      throw error;
    }
  };

  const totalOf = (execution: Execution, stream: Stream): number | null =>
    execution.report ? (execution.report.output?.[stream].bytes ?? 0) : null;

  const plan = (
    execution: Execution,
    stream: Stream,
    segments: readonly Segment[],
    next: number,
    maxBytes: number,
  ): OutputPlan =>
    planOutput(
      { next, segments, total: totalOf(execution, stream), limitBytes: execution.outputLimitBytes, spoolBytes },
      maxBytes,
    );

  const drop = (segments: readonly Segment[], offsets: readonly number[]): void => {
    for (const { path, offset } of segments) if (offsets.includes(offset)) unlinkIfThere(path);
  };

  /** Everything that is left, as chunks for the report; null when that is too much. Sends and changes nothing. */
  const remainder = (execution: Execution): Chunk[] | null => {
    if (execution.forgotten) return [];
    const chunks: Chunk[] = [];
    const maxBytes = Math.min(REMAINDER_BYTES, size.bytes());
    for (const stream of STREAMS) {
      const total = totalOf(execution, stream) ?? 0;
      const segments = total === 0 ? [] : segmentsOf(execution, stream);
      // Unknown after a restart: what the server has already it trims.
      let next = execution.next?.[stream] ?? segments[0]?.offset ?? null;
      if (next === null && total > 0) return null;
      next ??= 0;
      let bytes = 0;
      for (;;) {
        const { send, finished } = plan(execution, stream, segments, next, maxBytes);
        if (finished || !send) break;
        if (send.kind === 'gap') chunks.push({ offset: send.offset, stream, gap: send.length, reason: send.reason });
        else {
          bytes += send.length;
          if (bytes > maxBytes) return null;
          const buffer = Buffer.allocUnsafe(send.length);
          if (!reader.read(segments[send.segment], send.position, buffer)) return null;
          chunks.push(textOrBase64(stream, send.offset, buffer));
        }
        if (chunks.length > REMAINDER_CHUNKS) return null;
        next += send.length;
      }
    }
    return chunks;
  };

  /** Ended, and the report can carry what is left. */
  const ready = (execution: Execution): boolean => execution.report !== null && remainder(execution) !== null;

  /** Sends one stream as far as it goes now. @throws Unreachable, AegisError */
  const drainStream = async (execution: Execution, stream: Stream): Promise<void> => {
    while (!signal.aborted && !execution.forgotten) {
      const next = execution.next?.[stream] ?? 0;
      const segments = segmentsOf(execution, stream);
      const { drop: dropped, send } = plan(execution, stream, segments, next, size.bytes());
      drop(segments, dropped);
      if (!send) return;
      if (ready(execution)) return;
      const answered = await sendStep(execution, stream, segments, send);
      if (!answered) continue; // the segment was unlinked meanwhile: plan anew
      if (answered[stream] <= next && send.length > 0) throw new Unreachable('the server stores none of the output');
      setNext(execution, stream, answered[stream]);
      lane.succeeded();
    }
  };

  const sendStep = (
    execution: Execution,
    stream: Stream,
    segments: readonly Segment[],
    send: NonNullable<OutputPlan['send']>,
  ): Promise<NextOffsets | null> => {
    if (send.kind === 'gap') {
      const { offset, length: gap, reason } = send;
      log.info({ execution_id: execution.id, stream, offset, gap, reason }, 'output that is gone for good');
      return carrier.sendChunks(execution.commandId, execution.id, [{ offset, stream, gap, reason }]);
    }
    return lane.withBuffer(send.length, async (buffer) => {
      const bytes = buffer.subarray(0, send.length);
      if (!reader.read(segments[send.segment], send.position, bytes)) return null;
      return size.learn(bytes.length, () => carrier.sendOutput(execution.id, stream, send.offset, bytes));
    });
  };

  const setNext = (execution: Execution, stream: Stream, next: number): void => {
    execution.next = { ...(execution.next ?? { stdout: 0, stderr: 0 }), [stream]: next };
  };

  /** The output of an execution that the server does not know: nobody will ever read it, and a full spool would stop the command. */
  const discard = (execution: Execution): void => {
    for (const stream of STREAMS) {
      const segments = segmentsOf(execution, stream);
      drop(
        segments,
        segments.filter((one) => one.complete).map((one) => one.offset),
      );
    }
  };

  const work = async (execution: Execution): Promise<void> => {
    if (execution.forgotten) discard(execution);
    if (!ready(execution)) {
      execution.next ??= await carrier.sendChunks(execution.commandId, execution.id, []);
      const results = await Promise.allSettled(STREAMS.map((stream) => drainStream(execution, stream)));
      for (const result of results) if (result.status === 'rejected') throw result.reason;
      if (!execution.report || signal.aborted || !ready(execution)) return;
    }
    onDrained(execution);
  };

  const recover = async (execution: Execution, error: unknown): Promise<void> => {
    if (error instanceof Unreachable) return lane.failed(error.retryAfterMs);
    const next =
      error instanceof AegisError && error.code === 'commands.offset_ahead'
        ? z.safeParse(Next, error.details.next)
        : null;
    if (next?.success) {
      execution.next = next.data;
      return pause(COALESCE_MS, signal);
    }
    if (error instanceof AegisError && error.code === 'commands.unknown_execution') {
      log.warn(
        { command_id: execution.commandId, execution_id: execution.id },
        'the server does not know this execution: its output is dropped',
      );
      execution.forgotten = true;
      return;
    }
    log.error({ err: error, execution_id: execution.id }, 'cannot send output, trying again');
    return pause(REFUSED_AGAIN_MS, signal);
  };

  const run = async (execution: Execution): Promise<void> => {
    working.add(execution.id);
    try {
      for (let failed = true; failed && !signal.aborted; ) {
        try {
          await work(execution);
          failed = false;
        } catch (error) {
          if (!signal.aborted) await recover(execution, error);
        }
      }
    } finally {
      working.delete(execution.id);
      if (again.delete(execution.id)) kick(execution);
    }
  };

  /** There may be output, or the end. Cheap to call often. */
  const kick = (execution: Execution): void => {
    if (signal.aborted) return;
    if (working.has(execution.id)) {
      again.add(execution.id);
      return;
    }
    if (execution.report) {
      clearTimeout(timers.get(execution.id));
      timers.delete(execution.id);
      void run(execution);
    } else if (!timers.has(execution.id)) {
      timers.set(
        execution.id,
        setTimeout(() => {
          timers.delete(execution.id);
          if (execution.phase !== 'ended' || execution.report) void run(execution);
        }, COALESCE_MS),
      );
    }
  };

  return { kick, remainder, busy: () => working.size };
};

const Offset = z.int().check(z.minimum(0));
const Next = z.object({ stdout: Offset, stderr: Offset });

const textOrBase64 = (stream: Stream, offset: number, bytes: Buffer): Chunk =>
  isUtf8(bytes)
    ? { offset, stream, data: bytes.toString('utf8') }
    : { offset, stream, data: bytes.toString('base64'), encoding: 'base64' };
