import type { putKernelReport } from '@aegis/protocol/artifacts/endpoints';
import type { KernelReport } from '@aegis/protocol/artifacts/status';
import { endpoint } from '@aegis/protocol/endpoint';
import * as z from 'zod/mini';
import { pause } from '../platform/clock.ts';
import type { Backoff } from '../platform/http/backoff.ts';
import { type HttpClient, Unreachable } from '../platform/http/client.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { Logger } from '../platform/log.ts';
import type { ArtifactsState } from './repository.ts';

/** Tells the server once for each boot and release which program and attach kinds work here. Some seconds after the first contact: soon enough
 *  for whoever looks at the new node, and out of the way of what is assigned to it at once, which does not wait for the report. */
export interface KernelReportOptions {
  client: HttpClient;
  state: ArtifactsState;
  journal: Pick<Journal, 'group'>;
  /** Tries the kinds. Loads what it needs for that. */
  probe(): Promise<KernelReport>;
  /** Boot and release: a report of the same is not repeated. */
  of: string;
  delayMs: number;
  backoff: Backoff;
  log: Logger;
  signal: AbortSignal;
}

type Path = Pick<typeof putKernelReport, 'id' | 'door' | 'method' | 'path' | 'caller' | 'tag'>;
const path: Path = {
  id: 'putKernelReport',
  door: 'registry',
  method: 'PUT',
  path: '/v1/kernel-report',
  caller: 'node',
  tag: 'artifacts',
};
const put = endpoint({ ...path, summary: '', body: z.unknown(), response: z.object({ stored: z.boolean() }) });
const TRIES = 5;

/** Never throws: a node whose kernel cannot be probed takes artifacts all the same. */
export const sendKernelReport = async (options: KernelReportOptions): Promise<void> => {
  const { client, state, journal, probe, of, delayMs, backoff, log, signal } = options;
  if (state.kernelReported() === of) return;
  await pause(delayMs, signal);
  let report: KernelReport | null = null;
  for (let left = TRIES; left > 0 && !signal.aborted; left--) {
    try {
      report ??= await probe();
      await client.call(put, { body: report, signal });
      await journal.group('kernel-report', () => state.setKernelReported(of));
      return;
    } catch (error) {
      if (signal.aborted) return;
      const passing = report !== null && error instanceof Unreachable;
      log.warn({ err: error }, passing ? 'cannot send the kernel report yet' : 'there is no kernel report');
      if (!passing) return;
      await pause(backoff.next(error.retryAfterMs), signal);
    }
  }
};
