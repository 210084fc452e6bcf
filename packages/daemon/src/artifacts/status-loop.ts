import type { StatusReport } from '@aegis/protocol/artifacts/status';
import { AegisError } from '@aegis/protocol/errors';
import { pause } from '../platform/clock.ts';
import type { Backoff } from '../platform/http/backoff.ts';
import { Unreachable } from '../platform/http/client.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { Logger } from '../platform/log.ts';
import type { ArtifactsRepository, ReportRow } from './repository.ts';

/** The one loop that reports on artifacts: what waits in the journal, oldest first, until the server has answered for it. Only the newest
 *  report of an artifact waits, so that a node that was away tells how it is, not how it was. */

export interface StatusLoopOptions {
  repository: ArtifactsRepository;
  journal: Pick<Journal, 'lazily'>;
  /** One attempt. `address`: the artifact's id, or its name where only that is known. */
  send(address: string, report: StatusReport): Promise<{ stored: boolean }>;
  backoff: Backoff;
  log: Logger;
  signal: AbortSignal;
}

const AT_ONCE = 4;

export type StatusLoop = ReturnType<typeof statusLoop>;

export const statusLoop = ({ repository, journal, send, backoff, log, signal }: StatusLoopOptions) => {
  /** Answered for, and soon marked so. */
  const sent = new Set<string>();
  /** How often each was sent in vain: others go first, so that one that never gets through holds up none. */
  const inVain = new Map<string, number>();
  const timesInVain = (row: ReportRow): number => inVain.get(subjectOf(row)) ?? 0;
  let waiting = false;
  let running: Promise<void> | null = null;

  const sendOne = async (row: ReportRow): Promise<void> => {
    try {
      const { stored } = await send(row.address, row.report);
      if (!stored)
        log.debug({ artifact: row.name, generation: row.report.generation }, 'the server holds a newer report');
    } catch (error) {
      // Who we are, not what we say.
      if (!(error instanceof AegisError) || /^(access|nodes)\./.test(error.code)) {
        inVain.set(subjectOf(row), timesInVain(row) + 1);
        throw error;
      }
      log.warn(
        { artifact: row.name, code: error.code },
        `the server refuses a report, which is dropped: ${error.message}`,
      );
    }
    inVain.delete(subjectOf(row));
    const key = keyOf(row);
    sent.add(key);
    journal
      .lazily('artifact-report-sent', () => repository.setSent(row))
      .catch((error: unknown) => {
        if (!signal.aborted) log.error({ err: error }, 'cannot mark a report as sent: it is sent again');
      })
      .finally(() => sent.delete(key));
  };

  const run = async (): Promise<void> => {
    while (waiting && !signal.aborted) {
      waiting = false;
      try {
        for (;;) {
          const rows = repository
            .waitingReports(AT_ONCE + sent.size + inVain.size)
            .filter((row) => !sent.has(keyOf(row)))
            .sort((a, b) => timesInVain(a) - timesInVain(b))
            .slice(0, AT_ONCE);
          if (rows.length === 0) break;
          const results = await Promise.allSettled(rows.map(sendOne));
          const failed = results.find((result) => result.status === 'rejected');
          if (failed) throw failed.reason;
          backoff.reset();
        }
      } catch (error) {
        if (signal.aborted) return;
        waiting = true;
        const retryMs = backoff.next(error instanceof Unreachable ? error.retryAfterMs : 0);
        if (backoff.failures === 1)
          log.warn({ err: error, retry_ms: Math.round(retryMs) }, 'cannot report on artifacts, trying again');
        await pause(retryMs, signal);
      }
    }
  };

  const kick = (): void => {
    waiting = true;
    running ??= run().finally(() => {
      running = null;
      if (waiting && !signal.aborted) kick();
    });
  };

  return {
    kick,
    stopped: async (): Promise<void> => {
      await running;
    },
  };
};

const subjectOf = ({ name, slot }: ReportRow): string => `${slot} ${name}`;
const keyOf = ({ name, slot, seq }: ReportRow): string => `${slot} ${seq} ${name}`;
