import type { RunEnd, RunTrigger } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import { isoTime } from '../platform/clock.ts';
import type { Held } from './desired.ts';
import type { RunRow, RunState } from './repository.ts';
import { type ActiveRun, type RunOptions, startRun } from './run.ts';

/** The runs of this node: so many at once, the rest in turn; never two of one configuration, whose second waits for the first. */

export interface RunnerOptions extends Omit<RunOptions, 'lastOf'> {
  /** Runs that the journal holds. */
  rows: readonly RunRow[];
  maxConcurrent: number;
  newId(): string;
  /** A run's end is in the journal. */
  onEnd(row: RunRow, end: RunEnd): void;
  signal: AbortSignal;
}

export interface Waiting {
  row: RunRow;
  started: PromiseWithResolvers<ActiveRun | null>;
}

export type Runner = ReturnType<typeof runner>;

const BEGINNING: RunState = {
  failures: 0,
  spentMs: 0,
  prefix: null,
  conditionalWrites: false,
  uploads: {},
  archived: null,
};

export const runner = (options: RunnerOptions) => {
  const { repository, journal, clock, signal } = options;
  const active = new Map<string, ActiveRun>();
  let waiting: Waiting[] = [];
  /** On their way into the journal. */
  const adding = new Map<string, RunRow>();
  /** The newest that ended, of each configuration. */
  const last = new Map<string, RunRow>();
  /** Slots that a restore holds. */
  let borrowed = 0;
  const roomWaiters: (() => void)[] = [];
  for (const row of options.rows) if (row.ending) last.set(row.configId, row);

  const lastOf = (configId: string) => {
    const ending = last.get(configId)?.ending;
    if (!ending?.totals) return null;
    return { archiveBytes: ending.archive_bytes, files: ending.totals.files, bytes: ending.totals.bytes };
  };
  const free = (): boolean => active.size + borrowed < options.maxConcurrent;

  const next = (): void => {
    while (!signal.aborted && free()) {
      const resume = roomWaiters.shift();
      if (resume) {
        borrowed++;
        resume();
        continue;
      }
      const at = waiting.findIndex(({ row }) => !active.has(row.configId));
      const [one] = at < 0 ? [] : waiting.splice(at, 1);
      if (!one) return;
      begin(one);
    }
  };
  const begin = ({ row, started }: Waiting): void => {
    const run = startRun(row, { ...options, lastOf }, signal);
    active.set(row.configId, run);
    started.resolve(run);
    void run.ended.then((end) => {
      active.delete(row.configId);
      if (end) {
        row.ending = end;
        last.set(row.configId, row);
        options.onEnd(row, end);
      }
      next();
    });
  };
  const enqueue = (row: RunRow): Waiting => {
    const one: Waiting = { row, started: Promise.withResolvers() };
    waiting.push(one);
    next();
    return one;
  };
  const busyWith = (configId: string): RunRow | null =>
    active.get(configId)?.row ??
    adding.get(configId) ??
    waiting.find(({ row }) => row.configId === configId)?.row ??
    null;

  return {
    active: active as ReadonlyMap<string, ActiveRun>,
    last: last as ReadonlyMap<string, RunRow>,
    waiting: (): number => waiting.length,
    busyWith,
    /** Goes on with what the journal holds. */
    start: (): void => {
      for (const row of options.rows) if (row.stage !== 'ended' && row.stage !== 'told') enqueue(row);
    },
    /** Journals a run and takes it into the queue. `also` is in the same commit.
     *  @throws AegisError backups.busy, journal.* */
    add: async (
      { row: { configId, generation }, body }: Held,
      { trigger, scheduledMs, also }: { trigger: RunTrigger; scheduledMs: number | null; also?: () => void },
    ): Promise<Waiting> => {
      const busy = busyWith(configId);
      if (busy)
        throw new AegisError(
          'backups.busy',
          `'${body?.name}' is being backed up already (run ${busy.id}): wait for it, or cancel it.`,
        );
      if (!body)
        throw new AegisError('backups.unknown_config', 'The configuration is not one that this release can read.');
      const row: RunRow = {
        id: options.newId(),
        configId,
        stage: 'queued',
        attempt: 0,
        createdAtMs: clock.now(),
        start: { trigger, scheduledAt: scheduledMs === null ? null : isoTime(scheduledMs), generation, body },
        state: structuredClone(BEGINNING),
        ending: null,
        forget: [],
      };
      adding.set(configId, row);
      try {
        await journal.group('backup-queued', () => {
          repository.addRun(row.id, configId, row.createdAtMs, row.start, row.state);
          also?.();
        });
      } finally {
        adding.delete(configId);
      }
      return enqueue(row);
    },
    /** Another attempt of one whose end the server did not take. */
    again: (row: RunRow): Waiting => enqueue(row),
    /** A run that waits is cancelled at its turn: the server hears of it, and that it is over, with its end (report-loop.ts). */
    cancel: (row: RunRow): void => {
      const run = active.get(row.configId);
      if (run?.row === row) run.cancel();
      else void waiting.find((one) => one.row === row)?.started.promise.then((started) => started?.cancel());
    },
    /** A restore's turn, beside the runs. */
    borrow: async (until: AbortSignal): Promise<() => void> => {
      if (free()) borrowed++;
      else
        await new Promise<void>((resolve, reject) => {
          const turn = (): void => {
            until.removeEventListener('abort', gone);
            resolve();
          };
          const gone = (): void => {
            roomWaiters.splice(roomWaiters.indexOf(turn), 1);
            reject(until.reason);
          };
          roomWaiters.push(turn);
          until.addEventListener('abort', gone, { once: true });
        });
      return () => {
        borrowed--;
        next();
      };
    },
    stopped: async (): Promise<void> => {
      for (const { started } of waiting) started.resolve(null);
      waiting = [];
      await Promise.all([...active.values()].map(({ ended }) => ended));
    },
  };
};
