import type { Envelope } from '@aegis/protocol/access/dsse';
import type { Chunk, NextOffsets, PostedReport, Report, ReportResult } from '@aegis/protocol/commands/carrier';
import { AegisError } from '@aegis/protocol/errors';
import { type Clock, pause } from '../platform/clock.ts';
import type { Backoff } from '../platform/http/backoff.ts';
import { Unreachable } from '../platform/http/client.ts';
import type { Logger } from '../platform/log.ts';
import type { Execution } from './execution.ts';
import type { RequestSize } from './request-size.ts';

/** The one loop that reports. While a request is under way further reports gather, so that the batch grows with the load. Each is
 *  sent until it is answered; final ones come from the journal. */

export interface ReportLoopOptions {
  send(reports: readonly PostedReport[]): Promise<ReportResult[]>;
  sign(report: Report): Envelope;
  /** `running`, as far as it can be said; null when that is over. */
  runningReport(execution: Execution): Report | null;
  /** What the final report carries along of the output; null: there is more, drain first. */
  remainder(execution: Execution): Chunk[] | null;
  /** The server has the final report and all output, or will never take them. */
  onSettled(execution: Execution): void;
  /** The server lacks output: `next` was set, drain again. */
  onIncomplete(execution: Execution): void;
  size: RequestSize;
  backoff: Backoff;
  clock: Clock;
  log: Logger;
  signal: AbortSignal;
}

const BATCH = 100;
const BATCH_CHARS = 3 * 1024 * 1024;
/** Signed, and without output. */
const REPORT_CHARS = 2048;
/** A command that ends within this needs no word that it runs. */
const RUNNING_AFTER_MS = 100;
/** Between two requests, unless many reports wait: one that comes alone never waits. */
const PACE_MS = 10;
const MANY = 20;
const REFUSED_AGAIN_MS = 60_000;

interface Item {
  execution: Execution;
  report: Report;
}

export type ReportLoop = ReturnType<typeof reportLoop>;

export const reportLoop = (options: ReportLoopOptions) => {
  const { send, sign, runningReport, remainder, onSettled, onIncomplete, size, backoff, clock, log, signal } = options;
  const finals = new Map<string, Execution>();
  const runnings = new Map<string, Execution>();
  /** Refused for good as things stand; tried again seldom, because "things" may be a server of another release. */
  const resting = new Map<string, number>();
  let busy = false;
  const idleWaiters: (() => void)[] = [];

  /** A disk that does not read one execution's files must not keep the others from being reported. */
  const orRest = <T>(execution: Execution, look: () => T): T | 'resting' => {
    try {
      return look();
    } catch (error) {
      log.error({ err: error, execution_id: execution.id }, 'cannot read what belongs to a report, trying again');
      rest(execution);
      return 'resting';
    }
  };
  const rest = (execution: Execution): void => {
    resting.set(execution.id, clock.monotonic() + REFUSED_AGAIN_MS);
    setTimeout(kick, REFUSED_AGAIN_MS + 1000).unref();
  };

  const compose = (): { items: Item[]; posted: PostedReport[]; chars: number } => {
    const items: Item[] = [];
    const posted: PostedReport[] = [];
    const maxChars = Math.min(BATCH_CHARS, size.bytes());
    let chars = 0;
    for (const execution of finals.values()) {
      const { report } = execution;
      if (items.length >= BATCH || chars >= maxChars) break;
      if (!report || (resting.get(execution.id) ?? 0) > clock.monotonic()) continue;
      const chunks = orRest(execution, () => remainder(execution));
      if (chunks === 'resting') continue;
      if (!chunks) {
        finals.delete(execution.id);
        onIncomplete(execution);
        continue;
      }
      chars += REPORT_CHARS;
      for (const chunk of chunks) chars += 'data' in chunk ? chunk.data.length : 64;
      items.push({ execution, report });
      posted.push({ ...report, report: sign(report), ...(chunks.length > 0 ? { chunks } : {}) });
    }
    for (const execution of runnings.values()) {
      if (items.length >= BATCH) break;
      const report = execution.phase === 'running' ? orRest(execution, () => runningReport(execution)) : null;
      if (report && report !== 'resting') {
        items.push({ execution, report });
        posted.push(report);
      } else runnings.delete(execution.id);
    }
    return { items, posted, chars };
  };

  const settle = (execution: Execution): void => {
    finals.delete(execution.id);
    runnings.delete(execution.id);
    resting.delete(execution.id);
    onSettled(execution);
  };

  const refused = ({ execution, report }: Item, code: string, message: string): void => {
    const final = report.state !== 'running';
    const fields = { command_id: execution.commandId, execution_id: execution.id, code };
    if (!final) {
      runnings.delete(execution.id);
      if (code === 'commands.unknown_execution') execution.forgotten = true;
    } else if (code === 'commands.unknown_execution' || code === 'commands.unknown_command') {
      log.warn(fields, 'the server does not know this execution: its report is dropped');
      settle(execution);
    } else {
      log.error(fields, `the server refuses a report: ${message}`);
      rest(execution);
    }
  };

  const take = (item: Item, result: ReportResult | undefined): void => {
    if (!result) return; // not answered: sent again
    const { execution, report } = item;
    // Ahead: a server that was restored from a backup holds less than it did.
    if (result.error?.code === 'commands.output_incomplete' || result.error?.code === 'commands.offset_ahead') {
      execution.next = result.next;
      finals.delete(execution.id);
      onIncomplete(execution);
    } else if (result.error && tellsLess(report, result.next)) {
      // A power cut took from this disk what the server holds already: the loss is told with the server's count.
      execution.report = lossOf(report, result.next);
      execution.next = result.next;
    } else if (result.error) refused(item, result.error.code, result.error.message);
    else if (report.state === 'running') runnings.delete(execution.id);
    else settle(execution);
  };

  /** One request. A request that is refused as a whole is taken apart, to find which report it is. */
  const post = async (items: readonly Item[], posted: readonly PostedReport[]): Promise<void> => {
    try {
      const results = new Map((await send(posted)).map((result) => [result.execution_id, result]));
      for (const item of items) take(item, results.get(item.execution.id));
    } catch (error) {
      if (!(error instanceof AegisError)) throw error;
      // Who we are, not what we say: no report is at fault, and all wait.
      if (/^(access|nodes)\./.test(error.code)) throw new Unreachable(error.message, 0, error);
      const [only] = items;
      if (items.length === 1 && only) return refused(only, error.code, error.message);
      for (const [index, item] of items.entries()) {
        const one = posted[index];
        if (one) await post([item], [one]);
      }
    }
  };

  const run = async (): Promise<void> => {
    busy = true;
    while (!signal.aborted) {
      const { items, posted, chars } = compose();
      if (items.length === 0) break;
      try {
        await size.learn(chars, () => post(items, posted));
        backoff.reset();
        if (finals.size + runnings.size < MANY) await pause(PACE_MS, signal);
      } catch (error) {
        if (signal.aborted) break;
        if (!(error instanceof Unreachable)) log.error({ err: error }, 'cannot report, trying again');
        else if (backoff.failures === 0)
          log.warn({ err: error, waiting: finals.size }, 'cannot report to the server, trying again');
        await pause(backoff.next(error instanceof Unreachable ? error.retryAfterMs : 0), signal);
      }
    }
    busy = false;
    for (const resolve of idleWaiters.splice(0)) resolve();
  };

  /** In a turn of its own, so that what comes together is sent together. */
  let scheduled = false;
  const kick = (): void => {
    if (busy || scheduled || signal.aborted) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      if (!busy) void run();
    });
  };

  return {
    final: (execution: Execution): void => {
      runnings.delete(execution.id);
      finals.set(execution.id, execution);
      kick();
    },
    running: (execution: Execution): void => {
      setTimeout(() => {
        if (execution.phase !== 'running') return;
        runnings.set(execution.id, execution);
        kick();
      }, RUNNING_AFTER_MS).unref();
    },
    waiting: (): number => finals.size,
    /** When nothing is left to send, or the loop was stopped. */
    idle: (): Promise<void> =>
      new Promise((resolve) => {
        if (!busy && !scheduled && finals.size === 0) resolve();
        else idleWaiters.push(resolve);
      }),
  };
};

const tellsLess = ({ state, output }: Report, next: NextOffsets): boolean =>
  state === 'lost' && output !== undefined && (output.stdout.bytes < next.stdout || output.stderr.bytes < next.stderr);

const lossOf = (report: Report, next: NextOffsets): Report => ({
  ...report,
  output: {
    stdout: { bytes: Math.max(report.output?.stdout.bytes ?? 0, next.stdout), sha256: null },
    stderr: { bytes: Math.max(report.output?.stderr.bytes ?? 0, next.stderr), sha256: null },
  },
});
