import { randomUUID } from 'node:crypto';
import type { Envelope } from '@aegis/protocol/access/dsse';
import type { Chunk, NextOffsets, PostedReport, Report, ReportResult } from '@aegis/protocol/commands/carrier';
import { Refused } from './refused.ts';

/** What the server in memory keeps of executions: output by offset, gaps, reports. */

export interface StoredExecution {
  id: string;
  commandId: string;
  attempt: number;
  state: string;
  reports: Report[];
  output: { stdout: Buffer[]; stderr: Buffer[] };
  gaps: { stream: 'stdout' | 'stderr'; offset: number; gap: number; reason: string }[];
  next: NextOffsets;
  acknowledged: number;
}

const FINAL = new Set(['succeeded', 'failed', 'timed_out', 'cancelled', 'lost', 'refused', 'expired']);

/** @param signedByNode whether a node's key made the envelope over this very report */
export const contractExecutions = (signedByNode: (envelope: Envelope, report: Report) => boolean) => {
  const executions = new Map<string, StoredExecution>();
  /** Makes the server know an execution, without offering it. */
  const know = (commandId: string, attempt = 1, id: string = randomUUID()): StoredExecution => {
    const execution: StoredExecution = {
      id,
      commandId,
      attempt,
      state: 'queued',
      reports: [],
      output: { stdout: [], stderr: [] },
      gaps: [],
      next: { stdout: 0, stderr: 0 },
      acknowledged: 0,
    };
    executions.set(id, execution);
    return execution;
  };
  const known = (id: string): StoredExecution => {
    const execution = executions.get(id);
    if (!execution) throw new Refused(404, 'commands.unknown_execution');
    return execution;
  };
  const store = (execution: StoredExecution, stream: 'stdout' | 'stderr', offset: number, bytes: Buffer): void => {
    const next = execution.next[stream];
    if (offset > next) throw new Refused(409, 'commands.offset_ahead', { next: execution.next });
    const fresh = bytes.subarray(Math.min(next - offset, bytes.length));
    execution.output[stream].push(Buffer.from(fresh));
    execution.next[stream] += fresh.length;
  };
  const storeChunk = (execution: StoredExecution, chunk: Chunk): void => {
    if ('data' in chunk) {
      store(execution, chunk.stream, chunk.offset, Buffer.from(chunk.data, chunk.encoding ?? 'utf8'));
      return;
    }
    const next = execution.next[chunk.stream];
    if (chunk.offset > next) throw new Refused(409, 'commands.offset_ahead', { next: execution.next });
    const end = chunk.offset + chunk.gap;
    if (end <= next) return;
    execution.gaps.push({ stream: chunk.stream, offset: next, gap: end - next, reason: chunk.reason });
    execution.next[chunk.stream] = end;
  };
  const takeReport = (posted: PostedReport): ReportResult => {
    const { report: envelope, chunks = [], ...report } = posted;
    const execution = executions.get(report.execution_id ?? '');
    const id = report.execution_id ?? '';
    if (!execution)
      return {
        execution_id: id,
        state: 'queued',
        next: { stdout: 0, stderr: 0 },
        error: { code: 'commands.unknown_execution', message: 'unknown' },
      };
    for (const chunk of chunks) storeChunk(execution, chunk);
    const { next } = execution;
    const result = { execution_id: id, state: execution.state as ReportResult['state'], next };
    if (report.state !== 'running') {
      if (!envelope || !signedByNode(envelope, report))
        return { ...result, error: { code: 'access.bad_signature', message: 'bad signature' } };
      const { output } = report;
      if (output && (output.stdout.bytes > next.stdout || output.stderr.bytes > next.stderr))
        return { ...result, error: { code: 'commands.output_incomplete', message: 'incomplete' } };
    }
    execution.reports.push(report);
    if (!FINAL.has(execution.state)) execution.state = report.state;
    return { ...result, state: execution.state as ReportResult['state'] };
  };
  return { executions, know, known, store, storeChunk, takeReport };
};
