import { createHash } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import type { NextOffsets, Stream } from '@aegis/protocol/commands/carrier';
import { AegisError } from '@aegis/protocol/errors';
import type { Bus } from '../platform/bus.ts';
import type { Clock } from '../platform/clock.ts';
import type { Storage } from '../tables.ts';
import { outputTopic } from './changes.ts';
import { type PlacedChunk, planChunks, STREAM_NUMBER } from './chunk-plan.ts';
import type { OutputRepository } from './output-repository.ts';
import type { StreamHashes } from './stream-hashes.ts';

/** Output as nodes push it: contiguous, stored once, durable before it is acknowledged. */

export type ExecutionKey = { id: string; commandId?: string } | { commandId: string; attempt: number };

/** The same words whether it does not exist or belongs to another node. */
export const unknownExecution = (): AegisError =>
  new AegisError(
    'commands.unknown_execution',
    'This node has no such execution. The server may have been restored from a backup older than it: drop what waits for it.',
  );

const HASH_SLICE_ROWS = 4;

export const outputService = (on: {
  storage: Storage;
  repository: OutputRepository;
  hashes: StreamHashes;
  bus: Bus;
  clock: Clock;
}) => {
  const { storage, repository, hashes, bus, clock } = on;
  return {
    /** Stores the chunks that follow what is there; answers the next offsets.
     *  @throws AegisError commands.unknown_execution; commands.offset_ahead, output_limit, report_mismatch: what came before
     *  the chunk at fault is stored */
    store: async (nodeUid: string, key: ExecutionKey, chunks: readonly PlacedChunk[]): Promise<NextOffsets> => {
      const { plan, id } = await storage.write('commands.output', async (tx) => {
        const row = await repository.target(tx, nodeUid, key);
        if (!row) throw unknownExecution();
        if ('id' in key && key.commandId !== undefined && key.commandId !== row.command_id) throw unknownExecution();
        const now = clock.now();
        const planned = planChunks(row, chunks, row.output_limit_bytes, now);
        if (planned.rows.length > 0) {
          await repository.insert(tx, planned.rows);
          await repository.advance(tx, row.id, planned, now);
        }
        return { plan: planned, id: row.id };
      });
      for (const { stream, from, bytes } of plan.added) hashes.add(id, stream, from, bytes);
      if (plan.rows.length > 0) bus.publish(outputTopic(id));
      if (plan.error) throw plan.error;
      return plan.next;
    },

    /** Reads a stream's first `length` bytes back, a few megabytes at a time, to know their hash again. */
    rehash: async (executionId: string, stream: Stream, length: number): Promise<void> => {
      const hash = createHash('sha256');
      let at = 0;
      while (at < length) {
        const rows = await repository.slice(executionId, STREAM_NUMBER[stream], at, HASH_SLICE_ROWS);
        const last = rows.at(-1);
        if (!last) return; // deleted meanwhile
        for (const row of rows) {
          if (!row.bytes || row.start >= length) return; // a gap: there is nothing to compare
          hash.update(row.bytes.subarray(0, length - row.start));
          at = Math.min(length, row.start + row.length);
        }
        await turn(); // SQLite answers at once: without a turn of the event loop nobody else would be, for gigabytes
      }
      hashes.put(executionId, stream, length, hash);
    },
  };
};
export type OutputService = ReturnType<typeof outputService>;
