import { type ConfigReports, endRun, putConfigReports, startRun } from '@aegis/protocol/backups/node-endpoints';
import type { RunEnd } from '@aegis/protocol/backups/run';
import type { ResponseOf } from '@aegis/protocol/endpoint';
import { AegisError } from '@aegis/protocol/errors';
import { isoTime, pause } from '../platform/clock.ts';
import type { Backoff } from '../platform/http/backoff.ts';
import { type HttpClient, Unreachable } from '../platform/http/client.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { Logger } from '../platform/log.ts';
import type { Desired } from './desired.ts';
import type { BackupsRepository, RunRow } from './repository.ts';

/** The one loop that reports on backups: how runs ended, each until the server has answered for it, and which configurations are held and run
 *  when. What the server answers of runs to forget at `file` destinations is journaled with the answer, and then done. */

export interface ReportLoopOptions {
  client: HttpClient;
  desired: Desired;
  nextRunMs(configId: string): number | null;
  repository: BackupsRepository;
  journal: Pick<Journal, 'group'>;
  /** Ends that wait, from the journal. */
  waiting: RunRow[];
  /** The server does not take a good end: what it should prove is not there. */
  refused(row: RunRow, error: AegisError): Promise<void>;
  /** The server has it, or will never take it. */
  told(row: RunRow): void;
  /** Removes runs from `file` destinations. */
  forget(row: RunRow): Promise<void>;
  backoff: Backoff;
  log: Logger;
  signal: AbortSignal;
}

export type ReportLoop = ReturnType<typeof reportLoop>;

/** The statement and the objects are not as the end says. */
const NOT_PROVEN: readonly string[] = ['backups.bad_statement', 'backups.upload_mismatch'];
/** Passing troubles of the server's own. */
const LATER: readonly string[] = ['backups.destination_failed', 'backups.busy'];

export const reportLoop = (options: ReportLoopOptions) => {
  const { client, desired, repository, journal, backoff, log, signal } = options;
  const ended = [...options.waiting];
  let configsDue = false;
  let running: Promise<void> | null = null;

  const tellEnd = async (row: RunRow, body: RunEnd): Promise<ResponseOf<typeof endRun>> => {
    const end = { params: { id: row.id }, body, signal, timeoutMs: 120_000 };
    try {
      return await client.call(endRun, end);
    } catch (error) {
      const isUnknown = error instanceof AegisError && error.code === 'backups.unknown_run';
      if (!isUnknown || body.statement !== null || row.state.prefix !== null) throw error;
      // It was over before the server heard of it: cancelled in the queue, or out of time while the server was away.
      const { trigger, scheduledAt, generation } = row.start;
      const start = {
        run_id: row.id,
        config_id: row.configId,
        generation,
        attempt: body.attempt,
        trigger,
        ...(scheduledAt === null ? {} : { scheduled_at: scheduledAt }),
      };
      await client.call(startRun, { body: start, signal });
      return client.call(endRun, end);
    }
  };
  const sendEnd = async (row: RunRow): Promise<void> => {
    const body = row.ending;
    if (!body) return;
    let forget: RunRow['forget'] = [];
    try {
      ({ forget } = await tellEnd(row, body));
    } catch (error) {
      // Who we are, not what we say; or a server that cannot look at the destination just now.
      if (!(error instanceof AegisError) || /^(access|nodes)\./.test(error.code) || LATER.includes(error.code))
        throw error;
      const attempt = error.details.attempt;
      if (
        error.code === 'backups.run_conflict' &&
        typeof attempt === 'number' &&
        attempt > 0 &&
        attempt < body.attempt &&
        body.statement === null
      ) {
        // The last attempt never reached the server: the run ended for it in the one before.
        row.ending = { ...body, attempt };
        return sendEnd(row);
      }
      if (NOT_PROVEN.includes(error.code) && body.statement !== null) return options.refused(row, error);
      log.warn({ run: row.id, code: error.code }, `the server does not take how a backup ended: ${error.message}`);
    }
    row.forget = forget;
    row.stage = 'told';
    await journal.group('backup-told', () => repository.tellRun(row, forget));
    options.told(row);
    if (forget.length > 0) await forgetRuns(row);
  };
  const forgetRuns = async (row: RunRow): Promise<void> => {
    await options.forget(row);
    await journal.group('backup-forgotten', () => repository.forgotten(row.id));
    row.forget = [];
  };

  const reports = (): ConfigReports => {
    const ids = new Set([...desired.held.keys(), ...desired.refusals.keys()]);
    return {
      configs: [...ids].slice(0, 1000).map((configId) => {
        const held = desired.held.get(configId);
        const refusal = desired.refusals.get(configId);
        const nextMs = options.nextRunMs(configId);
        return {
          config_id: configId,
          generation: held?.row.generation ?? refusal?.generation ?? 1,
          next_run_at: nextMs === null ? null : isoTime(nextMs),
          refusal: refusal ? { code: refusal.code, message: refusal.message } : null,
        };
      }),
    };
  };
  const sendConfigs = async (): Promise<void> => {
    const body = reports();
    if (body.configs.length === 0) return;
    try {
      await client.call(putConfigReports, { body, signal });
    } catch (error) {
      if (!(error instanceof AegisError) || /^(access|nodes)\./.test(error.code)) throw error;
      log.warn({ code: error.code }, `the server does not take how backups are configured here: ${error.message}`);
    }
  };

  const run = async (): Promise<void> => {
    while (!signal.aborted && (ended.length > 0 || configsDue)) {
      try {
        const [row] = ended;
        if (row) {
          if (row.stage === 'told') await forgetRuns(row);
          else await sendEnd(row);
          ended.shift();
        } else {
          configsDue = false;
          await sendConfigs().catch((error: unknown) => {
            configsDue = true;
            throw error;
          });
        }
        backoff.reset();
      } catch (error) {
        if (signal.aborted) return;
        const [first] = ended;
        if (first && error instanceof AegisError) ended.push(...ended.splice(0, 1)); // one holds up no others
        const retryMs = backoff.next(error instanceof Unreachable ? error.retryAfterMs : 0);
        if (backoff.failures === 1)
          log.warn({ err: error, retry_ms: Math.round(retryMs) }, 'cannot report on backups, trying again');
        await pause(retryMs, signal);
      }
    }
  };
  const kick = (): void => {
    running ??= run().finally(() => {
      running = null;
      if (!signal.aborted && (ended.length > 0 || configsDue)) kick();
    });
  };

  return {
    ended: (row: RunRow): void => {
      ended.push(row);
      kick();
    },
    configs: (): void => {
      configsDue = true;
      kick();
    },
    start: kick,
    unreported: (): number => ended.filter(({ stage }) => stage === 'ended').length,
    stopped: async (): Promise<void> => {
      await running;
    },
  };
};
